//! Orders of several WebSocket clients, and what each of them was told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::child::{ServerProcess, Socket, connect};
use crate::actors::session::IN_FLIGHT_MAX;
use crate::cli::http::Server;

/// Orders of one client without an answer, while there is no schedule to keep: half of what the server allows.
const UNANSWERED_MAX: usize = IN_FLIGHT_MAX / 2;
const LOOK: Duration = Duration::from_millis(1);

/// An order for one; its number makes its id.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    pub symbol: &'a str,
    pub side: &'static str,
    pub price: &'a str,
}

/// How often an order was told what; more than 255 times is 255 times.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    acks: u8,
    /// Its ORDER_STATUS, or why it was refused.
    answers: u8,
    fills: u8,
}

/// What all clients were told.
#[derive(Default)]
struct Heard {
    orders: RefCell<Vec<Told>>,
    answers: Cell<u64>,
    refused: Cell<u64>,
    first_refusal: RefCell<Option<String>>,
    /// About no order of theirs.
    strays: Cell<u64>,
    ended: RefCell<Option<String>>,
}

/// What came of all orders.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    pub sent: u64,
    pub acked_once: u64,
    pub answered_once: u64,
    pub answered_again: u64,
    pub never_answered: u64,
    pub refused: u64,
    pub filled_once: u64,
    pub filled_again: u64,
    pub strays: u64,
}

impl Tally {
    /// Every order was acknowledged and answered exactly once, none was refused, and none was filled twice.
    pub fn is_exact(&self) -> bool {
        let Self {
            sent, acked_once, answered_once, answered_again, never_answered, refused, filled_again, strays, ..
        } = self;
        acked_once == sent
            && answered_once == sent
            && answered_again + never_answered + refused + filled_again + strays == 0
    }
}

/// The clients, each on a connection of its own.
pub struct Clients {
    sinks: Vec<SplitSink<Socket, Message>>,
    heard: Rc<Heard>,
    sent: u64,
}

impl Clients {
    /// Connects so many to one server after another, each a user of its own whose name begins with `who`: order ids are
    /// the same in every run, and an exchange remembers them by user. Runs on the thread of the caller's actix system.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(servers: &[&ServerProcess], clients: usize, who: &str) -> anyhow::Result<Self> {
        let heard = Rc::<Heard>::default();
        let mut sinks = Vec::new();
        for (n, server) in servers.iter().cycle().take(clients).enumerate() {
            let trader = Server::developing(&server.url("http"), &format!("{who}-{n}"), &["trader"]).await?;
            let (sink, stream) = connect(&server.url("ws"), Some(trader.token())).await?.split();
            sinks.push(sink);
            actix::spawn(listen(stream, Rc::clone(&heard)));
        }
        Ok(Self { sinks, heard, sent: 0 })
    }

    async fn send(&mut self, order: Order<'_>) -> anyhow::Result<()> {
        if let Some(why) = &*self.heard.ended.borrow() {
            bail!("a connection ended: {why}");
        }
        let n = self.sent;
        let text = json!({"action": "ADD", "request_id": n, "symbol": order.symbol, "side": order.side, "order_type": "LIMIT",
                          "price": order.price, "quantity": 1, "stp": "none", "order_id": format!("order-{n:028}")});
        let client = n as usize % self.sinks.len();
        self.heard.orders.borrow_mut().push(Told::default());
        self.sent += 1;
        self.sinks[client].feed(Message::text(text.to_string())).await?;
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        for sink in &mut self.sinks {
            sink.flush().await?;
        }
        Ok(())
    }

    /// Sends so many orders as fast as they are answered; returns once all are.
    ///
    /// # Errors
    /// When a connection ends, or answers do not come.
    pub async fn send_all<'a>(
        &mut self,
        orders: impl Iterator<Item = Order<'a>>,
        on_sent: impl Fn(u64),
    ) -> anyhow::Result<()> {
        let unanswered_max = (UNANSWERED_MAX * self.sinks.len()) as u64;
        for (n, order) in orders.enumerate() {
            self.send(order).await?;
            if self.sent - self.heard.answers.get() >= unanswered_max {
                self.flush().await?;
                self.until_answered(unanswered_max / 2).await?;
                on_sent(n as u64);
            }
        }
        self.flush().await?;
        self.until_answered(0).await
    }

    /// Sends an order each 1/`rate` s, whatever the answers do, until told to stop. `next` makes them.
    ///
    /// # Errors
    /// When a connection ends.
    pub async fn send_on_schedule<'a>(
        &mut self,
        rate: u64,
        stop: Arc<AtomicBool>,
        mut next: impl FnMut() -> Order<'a>,
    ) -> anyhow::Result<()> {
        let (due, mut ticks) = mpsc::unbounded_channel(); // one each 1/rate s
        // A thread of its own keeps the schedule: the runtime's timer is only good to a millisecond.
        std::thread::spawn(move || {
            let began = Instant::now();
            for n in 1.. {
                if stop.load(Ordering::Acquire) || due.send(()).is_err() {
                    return;
                }
                let at = Duration::from_nanos(n * 1_000_000_000 / rate.max(1));
                std::thread::sleep(at.saturating_sub(began.elapsed()));
            }
        });
        while let Some(()) = ticks.recv().await {
            self.send(next()).await?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Waits until no more than so many orders are without an answer.
    ///
    /// # Errors
    /// When no answer comes for [`super::load::WITHIN`], or a connection ends.
    async fn until_answered(&self, open: u64) -> anyhow::Result<()> {
        let mut last = (self.heard.answers.get(), Instant::now());
        while self.sent > self.heard.answers.get() + open {
            if let Some(why) = &*self.heard.ended.borrow() {
                bail!("a connection ended: {why}");
            }
            if self.heard.answers.get() != last.0 {
                last = (self.heard.answers.get(), Instant::now());
            } else if last.1.elapsed() > super::load::WITHIN {
                bail!("{} of {} orders are answered after {:?}", last.0, self.sent, super::load::WITHIN);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits so long for answers that are still to come, and for what nobody expects; gives what came of all orders.
    pub async fn tally(&self, within: Duration, quiet: Duration) -> Tally {
        _ = tokio::time::timeout(within, self.until_answered(0)).await;
        tokio::time::sleep(quiet).await;
        let orders = self.heard.orders.borrow();
        let count = |is: fn(&&Told) -> bool| orders.iter().filter(is).count() as u64;
        Tally {
            sent: orders.len() as u64,
            acked_once: count(|t| t.acks == 1),
            answered_once: count(|t| t.answers == 1),
            answered_again: count(|t| t.answers > 1),
            never_answered: count(|t| t.answers == 0),
            refused: self.heard.refused.get(),
            filled_once: count(|t| t.fills == 1),
            filled_again: count(|t| t.fills > 1),
            strays: self.heard.strays.get(),
        }
    }

    /// Why the first order was refused, if one was.
    pub fn first_refusal(&self) -> Option<String> {
        self.heard.first_refusal.borrow().clone()
    }
}

async fn listen(mut stream: SplitStream<Socket>, heard: Rc<Heard>) {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => heard.take(text.as_str()),
            // A heartbeat's ping is answered by the library.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => {
                *heard.ended.borrow_mut() = Some(format!("{other:?}"));
                return;
            }
        }
    }
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    request_id: Option<u64>,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    order_id: Option<&'a str>,
    status: Option<&'a str>,
    code: Option<&'a str>,
}

impl Heard {
    fn take(&self, text: &str) {
        let Ok(said) = serde_json::from_str::<Said<'_>>(text) else {
            self.strays.set(self.strays.get() + 1);
            return;
        };
        let by_id = || said.data.order_id?.strip_prefix("order-")?.parse::<u64>().ok();
        let (n, what): (_, fn(&mut Told) -> &mut u8) = match said.kind {
            "ACK" => (said.request_id, |told| &mut told.acks),
            "ERROR" => (said.request_id, |told| &mut told.answers),
            "ORDER_STATUS" if said.request_id.is_some() => (said.request_id, |told| &mut told.answers),
            "FILL" => (by_id(), |told| &mut told.fills),
            // That another order traded with one of theirs, and heartbeats.
            _ => return,
        };
        let mut orders = self.orders.borrow_mut();
        let Some(told) = n.and_then(|n| orders.get_mut(n as usize)) else {
            self.strays.set(self.strays.get() + 1);
            return;
        };
        let count = what(told);
        *count = count.saturating_add(1);
        if matches!(said.kind, "ERROR" | "ORDER_STATUS") {
            self.answers.set(self.answers.get() + u64::from(told.answers == 1));
            if said.kind == "ERROR" || said.data.status == Some("REJECTED") {
                self.refused.set(self.refused.get() + 1);
                let why = said.data.code.or(said.data.status).unwrap_or("?");
                self.first_refusal.borrow_mut().get_or_insert_with(|| format!("{why}: {text}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(orders: usize, messages: &[&str]) -> Heard {
        let heard = Heard { orders: RefCell::new(vec![Told::default(); orders]), ..Heard::default() };
        messages.iter().for_each(|text| heard.take(text));
        heard
    }

    async fn tally(heard: Heard) -> Tally {
        let sent = heard.orders.borrow().len() as u64;
        let clients = Clients { sinks: Vec::new(), heard: Rc::new(heard), sent };
        clients.tally(Duration::from_millis(1), Duration::ZERO).await
    }

    const ACK: &str = r#"{"type":"ACK","request_id":0,"data":{"order_id":"order-0","status":"RECEIVED"}}"#;
    const NEW: &str = r#"{"type":"ORDER_STATUS","request_id":0,"data":{"order_id":"order-0","status":"NEW","seq":3}}"#;
    const FILL: &str = r#"{"type":"FILL","data":{"order_id":"order-0000","filled_qty":1,"status":"FILLED"}}"#;
    const UPDATE: &str = r#"{"type":"ORDER_STATUS","data":{"order_id":"order-0","status":"FILLED","seq":4}}"#;

    #[tokio::test]
    async fn an_order_that_is_told_everything_once_is_exact_and_nothing_else_is() {
        let good = [ACK, NEW, FILL, UPDATE, r#"{"type":"HEARTBEAT","data":{"timestamp":"now"}}"#];
        let all = tally(heard(1, &good)).await;
        assert!(all.is_exact(), "{all:?}");
        assert_eq!((all.acked_once, all.answered_once, all.filled_once), (1, 1, 1));

        let refusal = r#"{"type":"ERROR","request_id":0,"data":{"code":"overloaded","message":"","details":{}}}"#;
        let rejected = r#"{"type":"ORDER_STATUS","request_id":0,"data":{"order_id":"order-0","status":"REJECTED"}}"#;
        let stranger = r#"{"type":"FILL","data":{"order_id":"order-7","filled_qty":1}}"#;
        let bad: [&[&str]; 8] = [
            &[NEW],
            &[ACK, ACK, NEW],
            &[ACK],
            &[ACK, NEW, NEW],
            &[ACK, NEW, FILL, FILL],
            &[ACK, refusal],
            &[ACK, rejected],
            &[ACK, NEW, stranger],
        ];
        for messages in bad {
            let all = tally(heard(1, messages)).await;
            assert!(!all.is_exact(), "{messages:?}: {all:?}");
        }
        assert_eq!(heard(1, &[ACK, refusal]).first_refusal.take().map(|why| why.starts_with("overloaded")), Some(true));
    }
}
