//! Producer sessions of `events`: FIFO, late, and ending with a lost suffix; never a hole (handover fact B, rule 11).

use std::collections::VecDeque;

use bytes::Bytes;

use super::counts::Happened;
use super::host::HostId;
use super::mutation::Mutation;
use super::world::{Event, MS, World};
use crate::domain::{Epoch, Seq};

/// A record on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub host: HostId,
    /// The replica's when it was enqueued.
    pub epoch: Epoch,
    pub last: Seq,
    pub value: Bytes,
}

/// One session to one partition of `events`.
#[derive(Debug, Default)]
pub(super) struct Producer {
    pub process: usize,
    pub partition: usize,
    queue: VecDeque<Outgoing>,
    /// A landing is scheduled.
    is_landing: bool,
    /// Ended: what is queued still lands, nothing is added.
    is_ended: bool,
    stalled_until: u64,
    last_ack: u64,
}

impl Producer {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether nothing of this book's is queued.
    pub fn has_none_of(&self, host: HostId) -> bool {
        self.queue.iter().all(|o| o.host != host)
    }
}

impl World {
    /// Opens the sessions of a process anew.
    pub(super) fn open_sessions(&mut self, process: usize) {
        self.processes[process].session += 1;
        let first = self.producers.len();
        for partition in 0..self.weather.partitions {
            self.producers.push(Producer { process, partition, ..Producer::default() });
        }
        self.processes[process].producers = (first..self.producers.len()).collect();
    }

    /// Enqueues one record (rule 5).
    pub(super) fn produce(&mut self, host: HostId, epoch: Epoch, last: Seq, value: Bytes) {
        let partition = self.symbols[host.symbol].partition;
        let id = self.processes[host.process].producers[partition];
        let producer = &mut self.producers[id];
        if producer.is_ended {
            return; // the process will hear of it
        }
        producer.queue.push_back(Outgoing { host, epoch, last, value });
        self.schedule_landing(id);
    }

    fn schedule_landing(&mut self, id: usize) {
        if !self.producers[id].is_landing && !self.producers[id].queue.is_empty() {
            self.producers[id].is_landing = true;
            let at =
                (self.now + self.rng.producers.delay(self.weather.landing, 60)).max(self.producers[id].stalled_until);
            self.schedule(at, Event::Land { producer: id });
        }
    }

    /// The first records of a queue arrive.
    pub(super) fn land(&mut self, id: usize) {
        self.producers[id].is_landing = false;
        for _ in 0..self.rng.producers.between(1, 4) {
            let Some(outgoing) = self.producers[id].queue.pop_front() else { break };
            let fails = self.rng.producers.chance(self.weather.loss / 25) && !self.is_calm;
            if fails && !self.producers[id].is_ended {
                self.count(Happened::SessionFailed);
                let (who, symbol) = (self.who(outgoing.host.process), self.symbol(outgoing.host.symbol));
                self.say(|| format!("a record of {who} with {symbol} up to {} fails for good", outgoing.last));
                if self.mutation == Some(Mutation::ProducerSkipsFailed) {
                    continue;
                }
                self.end_session(self.producers[id].process, Some(id));
                return;
            }
            self.arrive(id, outgoing);
        }
        self.schedule_landing(id);
    }

    fn arrive(&mut self, id: usize, outgoing: Outgoing) {
        let Outgoing { host, epoch, last, value } = outgoing;
        let at = self.at();
        let partition = self.producers[id].partition;
        let (offset, first, _) = self.log.append_event(partition, host.symbol, value, epoch, at);
        if self.log.events(partition)[..offset.0 as usize].iter().any(|e| e.symbol == host.symbol && e.last >= first) {
            let (who, symbol) = (self.who(host.process), self.symbol(host.symbol));
            self.say(|| format!("{symbol} {first} to {last} of {who} land again or late, at {offset}"));
        }
        let delay = self.rng.acks.delay(5 * MS, 80);
        let ack_at = (self.now + delay).max(self.producers[id].last_ack);
        self.producers[id].last_ack = ack_at;
        self.schedule(ack_at, Event::Ack { host, through: last });
    }

    /// All sessions of a process end: of each queue a prefix still lands, of the `broken` one nothing (rule 11).
    pub(super) fn end_session(&mut self, process: usize, broken: Option<usize>) {
        let (ids, session) = (self.processes[process].producers.clone(), self.processes[process].session);
        for id in ids {
            if self.producers[id].is_ended {
                continue;
            }
            let queued = self.producers[id].queue.len();
            let stays = if broken == Some(id) { 0 } else { self.rng.producers.index(queued + 1) };
            self.producers[id].is_ended = true;
            self.producers[id].queue.truncate(stays);
            if stays < queued {
                self.count(Happened::SuffixLost);
                let who = self.who(process);
                self.say(|| format!("of {queued} queued records of {who} the last {} are lost", queued - stays));
            }
        }
        if broken.is_some() {
            let delay = self.rng.acks.delay(20 * MS, 20);
            self.after(delay, Event::SessionFailed { process, session });
        }
    }

    /// The process hears that its session ended: queue and replicas are dropped, and restored (rule 11).
    pub(super) fn session_failed(&mut self, process: usize, session: u64) {
        if self.processes[process].session != session {
            return;
        }
        let who = self.who(process);
        self.say(|| format!("{who} hears that its session ended and restores all its books"));
        self.open_sessions(process);
        for symbol in 0..self.symbols.len() {
            if self.processes[process].hosts[symbol].take().is_some() {
                self.begin_host(process, symbol);
            }
        }
    }

    /// The producers of a frozen process stop too, or go on with what they have.
    pub(super) fn stall_producers(&mut self, process: usize, until: u64) {
        for id in self.processes[process].producers.clone() {
            if self.rng.producers.chance(500) {
                self.producers[id].stalled_until = until;
            }
        }
    }

    /// Whether nothing that this replica published is still queued.
    pub(super) fn queue_is_empty(&self, host: HostId) -> bool {
        let partition = self.symbols[host.symbol].partition;
        self.producers[self.processes[host.process].producers[partition]].has_none_of(host)
    }
}
