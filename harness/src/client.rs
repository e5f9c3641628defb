//! HTTP and WebSocket as any client speaks them.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::wait::soon;

/// Whoever does not answer a request by then does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// One HTTP/1.1 request on a connection of its own; the status and the text of the answer. `url` is a server's, such as
/// `http://127.0.0.1:8080`; `body` is JSON.
///
/// # Errors
/// Why there is no answer.
pub async fn request(
    url: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<String>,
) -> Result<(u16, String), String> {
    let address = url.strip_prefix("http://").ok_or_else(|| format!("{url} is not of the form http://HOST:PORT"))?;
    let mut request = Request::builder().method(method).uri(path).header("host", address);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|e| e.to_string())?;
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let text = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        connection.abort();
        Ok((status, String::from_utf8_lossy(&text.to_bytes()).into_owned()))
    };
    let silent = |_| Err(format!("no answer within {ANSWER_WITHIN:?}"));
    tokio::time::timeout(ANSWER_WITHIN, exchange).await.unwrap_or_else(silent)
}

/// [`request`] with JSON; an answer that is no JSON is `null`. No body is sent for `null`.
///
/// # Errors
/// Why there is no answer.
pub async fn call(
    url: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Value,
) -> Result<(u16, Value), String> {
    let body = (!body.is_null()).then(|| body.to_string());
    let (status, text) = request(url, method, path, token, body).await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
}

/// A WebSocket client (docs/websocket.md). What it awaits has a deadline, [`crate::SOON`].
pub struct Ws {
    pub stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Ws {
    /// Connects to a server's `/ws`; `url` as for [`request`]. It still has to say who it is ([`Self::auth`]).
    pub async fn connect(url: &str) -> Self {
        let url = format!("{}/ws", url.replacen("http", "ws", 1));
        let (stream, _) = tokio_tungstenite::connect_async(url).await.expect("a websocket");
        Self { stream }
    }

    /// With a token in the request's header.
    pub async fn connect_as(url: &str, token: &str) -> Self {
        Self::try_connect_as(url, token).await.expect("a websocket")
    }

    /// [`Self::connect_as`], of a server that may be away.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn try_connect_as(url: &str, token: &str) -> Result<Self, String> {
        let url = format!("{}/ws", url.replacen("http", "ws", 1));
        let mut request = url.into_client_request().map_err(|e| e.to_string())?;
        request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().expect("a header"));
        let (stream, _) = tokio_tungstenite::connect_async(request).await.map_err(|e| e.to_string())?;
        Ok(Self { stream })
    }

    pub async fn auth(&mut self, token: &str, cancel_on_disconnect: bool) {
        self.send(json!({
            "action": "AUTH", "request_id": "auth", "token": token, "cancel_on_disconnect": cancel_on_disconnect,
        }))
        .await;
        let answer = self.next_of("ACK").await;
        assert_eq!(answer["data"]["status"], "OK", "{answer}");
    }

    pub async fn send(&mut self, message: Value) {
        self.send_text(message.to_string()).await;
    }

    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.stream.send(Message::text(text.into())).await.expect("sent");
    }

    /// ADD of a LIMIT GTC order.
    pub async fn add(&mut self, symbol: &str, side: &str, price: &str, quantity: u64, id: &str) {
        self.send(json!({
            "action": "ADD", "request_id": id, "symbol": symbol, "side": side, "price": price, "quantity": quantity,
            "order_id": id,
        }))
        .await;
    }

    /// The next message that is no heartbeat.
    pub async fn next(&mut self) -> Value {
        // One deadline for all of it: heartbeats must not put it off.
        let read = async {
            loop {
                match self.stream.next().await.expect("no end").expect("no error") {
                    Message::Text(text) => {
                        let value: Value = serde_json::from_str(text.as_str()).expect("JSON");
                        if value["type"] != "HEARTBEAT" {
                            return value;
                        }
                    }
                    Message::Close(frame) => panic!("closed: {frame:?}"),
                    _ => {}
                }
            }
        };
        soon("a message", read).await
    }

    /// Skips to the next message of a type.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Reads to the close frame; gives its code, `None` when the connection just ended.
    pub async fn close_code(&mut self) -> Option<u16> {
        let read = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|f| f.code.into()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        };
        soon("the close", read).await
    }

    /// Ends the TCP connection without a close frame, as a client that dies.
    pub fn vanish(self) {
        drop(self.stream);
    }
}
