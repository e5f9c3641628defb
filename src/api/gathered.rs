//! What an administrator asks of the whole cluster: every process answers for its own nodes, and one puts it together.

use futures_util::future::join_all;
use serde::Serialize;
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

/// Sorts entries by one of their fields; those without it come first.
pub fn sort_by<K: Ord + serde::de::DeserializeOwned>(entries: &mut Entries, field: &str) {
    let key = |entry: &RawValue| {
        let mut value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(entry.get()).ok()?;
        serde_json::from_value::<K>(value.remove(field)?).ok()
    };
    entries.sort_by_cached_key(|entry| key(entry));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_text_and_are_sorted_by_a_field() {
        let mut all: Entries = serde_json::from_str(r#"[{"id":10,"p":250.50},{"id":9},{}]"#).unwrap();
        sort_by::<u64>(&mut all, "id");
        assert_eq!(serde_json::to_string(&all).unwrap(), r#"[{},{"id":9},{"id":10,"p":250.50}]"#);
    }
}
