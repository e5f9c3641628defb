//! What an administrator asks of the whole cluster: every process answers for its own nodes, and one puts it together.

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::actors::cluster::Read;
use crate::actors::exchange::Exchange;

/// Entries of a JSON array, as they are told.
pub type Entries = Vec<Box<RawValue>>;

/// What this process tells, as entries. What cannot be written is left out.
pub fn entries<T: Serialize>(of: impl IntoIterator<Item = T>) -> Entries {
    of.into_iter().filter_map(|entry| to_raw_value(&entry).ok()).collect()
}

/// What this process answers for its own nodes.
pub fn mine(exchange: &Exchange, what: Read) -> Entries {
    match what {
        Read::Nodes => entries(exchange.fleet().views()),
        Read::Books => super::admin::book_entries(exchange),
        Read::Migrations => super::migrations::entries(exchange),
        Read::Decisions => super::decisions::entries(exchange),
    }
}

/// What all processes answer, this one first. One that does not answer is left out, and that is logged.
pub async fn all(exchange: &Exchange, what: Read) -> Entries {
    let others = exchange.members().processes();
    let asked = others.iter().map(|member| async move {
        let answer = member.link().read(what).await.map_err(|e| e.to_string());
        let read = answer.and_then(|json| serde_json::from_slice::<Entries>(&json).map_err(|e| e.to_string()));
        read.unwrap_or_else(|error| {
            tracing::warn!(node = %member.node, ?what, error, "a process does not tell");
            Vec::new()
        })
    });
    let mut all = mine(exchange, what);
    all.extend(join_all(asked).await.into_iter().flatten());
    all
}

/// Sorts entries by a text in each, at a [JSON pointer](Value::pointer); those without it come first.
pub fn sort_by_text(entries: &mut Entries, pointer: &str) {
    sort_by(entries, pointer, str::to_owned);
}

/// Sorts entries by a time in each, as [`sort_by_text`]. Those of one time stay as they are.
pub fn sort_by_time(entries: &mut Entries, pointer: &str) {
    // Not as texts: a fraction that is zero is left out of them.
    sort_by(entries, pointer, |text| text.parse::<jiff::Timestamp>().ok());
}

fn sort_by<K: Ord>(entries: &mut Entries, pointer: &str, key: impl Fn(&str) -> K) {
    let key = |entry: &RawValue| {
        let entry: Value = serde_json::from_str(entry.get()).ok()?;
        entry.pointer(pointer)?.as_str().map(&key)
    };
    entries.sort_by_cached_key(|entry| key(entry));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_text_and_are_sorted_by_a_field() {
        let mut all: Entries = serde_json::from_str(r#"[{"id":"b","p":250.50},{"id":"a"},{}]"#).unwrap();
        sort_by_text(&mut all, "/id");
        assert_eq!(serde_json::to_string(&all).unwrap(), r#"[{},{"id":"a"},{"id":"b","p":250.50}]"#);
    }

    #[test]
    fn times_are_sorted_as_times() {
        let at =
            |text: &str| serde_json::json!({"steps": [{"started_at": text}, {"started_at": "2026-01-01T00:00:00Z"}]});
        let times = ["2026-11-28T10:00:00Z", "2026-11-28T10:00:00.5Z", "2026-11-28T10:00:01Z"];
        let mut all = entries([at(times[1]), at(times[2]), at(times[0])]);
        sort_by_time(&mut all, "/steps/0/started_at");
        assert_eq!(serde_json::to_value(&all).unwrap(), serde_json::json!(times.map(at)));
    }
}
