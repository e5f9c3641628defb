//! The baseline of `bench order-entry`: a bare actix WebSocket echo that answers a message after N durable appends, and makes
//! more of them behind the answer if asked to.

use std::path::PathBuf;
use std::sync::Arc;

use actix::prelude::*;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use actix_web_actors::ws;
use bytes::Bytes;

use crate::ports::log::embedded::{EmbeddedLog, EmbeddedLogOptions};
use crate::ports::log::{Log, NewRecord, Session, SessionOptions, Topic, TopicPartition};

const QUEUE_BYTES_MAX: usize = 64 << 20;

/// What `bench order-entry` starts as a process of its own.
#[derive(Debug, Clone, clap::Args)]
pub struct BaselineArgs {
    #[arg(long)]
    pub port: u16,
    /// Durable appends before the echo.
    #[arg(long)]
    pub appends: u32,
    /// Durable appends behind the echo, which nobody waits for.
    #[arg(long, default_value_t = 0)]
    pub behind: u32,
    #[arg(long)]
    pub data: PathBuf,
}

#[derive(Clone)]
struct Echo {
    session: Arc<dyn Session>,
    appends: u32,
    behind: u32,
}

/// One durable append after another; the first is an order, the others what became of it.
async fn append(session: &Arc<dyn Session>, text: &[u8], numbers: std::ops::Range<u32>) {
    for n in numbers {
        let topic = if n == 0 { Topic::Orders } else { Topic::Events };
        let value = Bytes::copy_from_slice(text);
        let (key, header) = (Bytes::from_static(b"ECHO"), Bytes::new());
        let record = NewRecord { to: TopicPartition { topic, partition: 0 }, key, header, value };
        if session.append(record).await.is_err() {
            break;
        }
    }
}

impl Actor for Echo {
    type Context = ws::WebsocketContext<Self>;
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Echo {
    fn handle(&mut self, message: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        let Ok(ws::Message::Text(text)) = message else {
            ctx.stop();
            return;
        };
        let Self { session, appends, behind } = self.clone();
        let work = async move {
            append(&session, text.as_bytes(), 0..appends).await;
            text
        };
        ctx.spawn(work.into_actor(self).map(move |text, echo, ctx| {
            if behind > 0 {
                let (session, text) = (Arc::clone(&echo.session), text.clone());
                let work = async move { append(&session, text.as_bytes(), appends..appends + behind).await };
                ctx.spawn(work.into_actor(echo));
            }
            ctx.text(text);
        }));
    }
}

async fn open(request: HttpRequest, body: web::Payload, state: web::Data<Echo>) -> actix_web::Result<HttpResponse> {
    ws::start(Echo::clone(&state), &request, body)
}

/// Serves until it is killed.
///
/// # Errors
/// When the port or the folder cannot be had.
pub fn run(args: BaselineArgs) -> anyhow::Result<()> {
    System::new().block_on(async move {
        let log = EmbeddedLog::open(&EmbeddedLogOptions::new(&args.data, 1))?;
        let session = log.open_session(SessionOptions { name: "baseline".into(), queue_bytes_max: QUEUE_BYTES_MAX })?;
        let state = web::Data::new(Echo { session, appends: args.appends, behind: args.behind });
        HttpServer::new(move || App::new().app_data(state.clone()).route("/ws", web::get().to(open)))
            .on_connect(|connection, _| {
                // Without it Nagle's algorithm holds an answer back until the client sends again.
                if let Some(tcp) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() {
                    _ = tcp.set_nodelay(true);
                }
            })
            .bind(("127.0.0.1", args.port))?
            .run()
            .await?;
        Ok(())
    })
}
