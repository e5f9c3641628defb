//! The topics: how they are made, and whether they are as they must be.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;

use super::context::Context;
use super::options::{BATCH_BYTES_MAX, KafkaOptions};
use super::places::partitions_of;
use super::reach;
use super::reader::unavailable;
use crate::ports::log::{LogError, Topic};

/// How long brokers may take to answer an administrator.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long any broker may take to say that it is there.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How soon every broker knows of a new topic, and how often we look.
const SPREADS_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// How long brokers are waited for that a new topic needs for its copies.
const COME_WITHIN: Duration = Duration::from_secs(5);
/// Space comes back in whole segments: with 128 partitions, 1 GiB each would be a lot.
const SEGMENT_BYTES: &str = "134217728";

/// How topics are made.
#[derive(Debug, Clone)]
pub struct NewTopics {
    /// Of `orders` and `events`; never changed afterwards.
    pub partitions: u32,
    /// Copies of every partition.
    pub replication: u32,
    /// Copies that must have a record before it counts as durable.
    pub min_insync_replicas: u32,
}

impl Default for NewTopics {
    fn default() -> Self {
        Self { partitions: 64, replication: 3, min_insync_replicas: 2 }
    }
}

/// What became of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Created,
    /// It was there, and is as it must be.
    Fits,
}

/// What asks brokers for more than records.
pub struct Admin {
    client: Arc<AdminClient<Context>>,
}

impl Admin {
    /// Returns once brokers have answered.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when no broker answers, [`LogError::Refused`] when they do not let us in.
    pub async fn open(kafka: &KafkaOptions) -> Result<Arc<Self>, LogError> {
        let of_question = kafka.clone();
        let asked = tokio::task::spawn_blocking(move || reach::ask(&of_question));
        asked.await.unwrap_or(Err(LogError::Closed))?;
        let context = Context::new("administration", kafka);
        let client = Arc::new(kafka.client().create_with_context(context).map_err(unavailable)?);
        kafka.security.keep_authorized(&client)?;
        Ok(Arc::new(Self { client }))
    }

    /// Asks any broker.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when none has answered within a second.
    pub async fn answers(&self, topic: &str) -> Result<(), LogError> {
        let (client, topic) = (Arc::clone(&self.client), topic.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            client.inner().fetch_metadata(Some(&topic), HEARD_WITHIN).map(|_| ()).map_err(unavailable)
        });
        asked.await.unwrap_or(Err(LogError::Closed))
    }

    /// Lets go of records below `before`; gives the offset at which the partition now begins.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn delete_records(&self, topic: &str, partition: u32, before: u64) -> Result<u64, LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition as i32, rdkafka::Offset::Offset(before as i64))
            .map_err(unavailable)?;
        let deleted = self.client.delete_records(&list, &admin_options()).await.map_err(unavailable)?;
        for element in deleted.elements() {
            element.error().map_err(unavailable)?;
            if let rdkafka::Offset::Offset(start) = element.offset() {
                return Ok(start.max(0) as u64);
            }
        }
        Ok(before)
    }

    /// Copies of each partition, by topic.
    async fn shapes(self: &Arc<Self>) -> Result<HashMap<String, Vec<usize>>, LogError> {
        let this = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = this.client.inner().fetch_metadata(None, ANSWER_WITHIN).map_err(unavailable)?;
            let copies = |t: &MetadataTopic| t.partitions().iter().map(|p| p.replicas().len()).collect();
            Ok(metadata.topics().iter().map(|t| (t.name().to_owned(), copies(t))).collect())
        });
        asked.await.unwrap_or(Err(LogError::Closed))
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_WITHIN)).operation_timeout(Some(ANSWER_WITHIN))
}

/// Makes the topics that are missing and checks those that are there; changes none.
///
/// # Errors
/// [`LogError::Topics`] names everything that is not as it must be, [`LogError::Unavailable`] when brokers do not
/// answer, [`LogError::Refused`] when they do not let us in.
pub async fn init(kafka: &KafkaOptions, new: &NewTopics) -> Result<Vec<(String, Outcome)>, LogError> {
    let admin = Admin::open(kafka).await?;
    let mut outcomes = Vec::new();
    for topic in Topic::ALL {
        let name = kafka.topic_name(topic);
        let outcome = create(&admin, topic, &name, new).await?;
        outcomes.push((name, outcome));
    }
    // A broker may hear of a new topic a little later than the one that made it.
    let began = Instant::now();
    let found = loop {
        match check(kafka, &admin).await {
            Err(LogError::Topics { .. })
                if outcomes.iter().any(|(_, o)| *o == Outcome::Created) && began.elapsed() < SPREADS_WITHIN =>
            {
                tokio::time::sleep(LOOK).await;
            }
            found => break found?,
        }
    };
    if found != new.partitions {
        let orders = kafka.topic_name(Topic::Orders);
        let fault = format!("{orders} has {found} partitions, not {}: their number never changes", new.partitions);
        return Err(LogError::Topics { faults: vec![fault] });
    }
    Ok(outcomes)
}

async fn create(admin: &Admin, topic: Topic, name: &str, new: &NewTopics) -> Result<Outcome, LogError> {
    let (settings, copies) = (settings(topic), new.min_insync_replicas.to_string());
    let partitions = partitions_of(topic, new.partitions) as i32;
    let mut wanted = NewTopic::new(name, partitions, TopicReplication::Fixed(new.replication as i32))
        .set("min.insync.replicas", &copies)
        .set("segment.bytes", SEGMENT_BYTES);
    for (key, value) in &settings {
        wanted = wanted.set(key, value);
    }
    let began = Instant::now();
    let result = loop {
        let results = admin.client.create_topics([&wanted], &admin_options()).await.map_err(unavailable)?;
        match results.into_iter().next() {
            // More copies than there are brokers; those that have only just started may still come.
            Some(Err((_, RDKafkaErrorCode::InvalidReplicationFactor))) if began.elapsed() < COME_WITHIN => {
                tokio::time::sleep(LOOK).await;
            }
            result => break result,
        }
    };
    match result {
        Some(Ok(_)) => Ok(Outcome::Created),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(Outcome::Fits),
        Some(Err((_, why))) => Err(LogError::Topics { faults: vec![format!("{name} cannot be made: {why}")] }),
        None => Err(LogError::Unavailable { why: format!("no answer about {name}") }),
    }
}

/// What a topic is set to.
fn settings(topic: Topic) -> Vec<(&'static str, String)> {
    let cleanup = if topic == Topic::Symbols { "compact" } else { "delete" };
    let mut settings = vec![
        // Time is what the log says, not what a producer says.
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("cleanup.policy", cleanup.to_owned()),
        ("max.message.bytes", BATCH_BYTES_MAX.to_string()),
        // Better not to be served than to lose what was acknowledged.
        ("unclean.leader.election.enable", "false".to_owned()),
        ("compression.type", "producer".to_owned()),
    ];
    // How long the derived topics are kept is the operator's choice: they can be made again from `events`.
    if topic != Topic::Symbols && !Topic::DERIVED.contains(&topic) {
        // Trimmed by us, below the oldest snapshots, and by nothing else.
        settings.extend([("retention.ms", "-1".to_owned()), ("retention.bytes", "-1".to_owned())]);
    }
    settings
}

/// Checks every topic; gives the partitions of `orders`.
///
/// # Errors
/// As [`init`].
pub async fn check(kafka: &KafkaOptions, admin: &Arc<Admin>) -> Result<u32, LogError> {
    let names: Vec<String> = Topic::ALL.iter().map(|t| kafka.topic_name(*t)).collect();
    let shapes = admin.shapes().await?;
    let there: Vec<&String> = names.iter().filter(|n| shapes.contains_key(*n)).collect();
    let configs = describe(admin, &there).await?;
    let partitions = shapes.get(&names[Topic::Orders as usize]).map_or(0, |copies| copies.len() as u32);
    let mut faults = Vec::new();
    for (topic, name) in Topic::ALL.into_iter().zip(&names) {
        match (shapes.get(name), configs.get(name)) {
            (Some(copies), Some(config)) => faults.extend(faults_of(topic, name, copies, config, partitions)),
            _ => faults.push(format!("{name} does not exist")),
        }
    }
    if faults.is_empty() { Ok(partitions) } else { Err(LogError::Topics { faults }) }
}

async fn describe(admin: &Admin, names: &[&String]) -> Result<HashMap<String, ConfigResource>, LogError> {
    let wanted: Vec<ResourceSpecifier<'_>> = names.iter().map(|n| ResourceSpecifier::Topic(n)).collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let described = admin.client.describe_configs(&wanted, &admin_options()).await.map_err(unavailable)?;
    let named = |resource: ConfigResource| match &resource.specifier {
        OwnedResourceSpecifier::Topic(name) => Some((name.clone(), resource)),
        _ => None,
    };
    let mut found = HashMap::new();
    for result in described {
        match result {
            Ok(resource) => found.extend(named(resource)),
            Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
            Err(error) => return Err(LogError::Unavailable { why: format!("topics cannot be described: {error}") }),
        }
    }
    Ok(found)
}

fn faults_of(topic: Topic, name: &str, copies: &[usize], config: &ConfigResource, partitions: u32) -> Vec<String> {
    let mut faults = Vec::new();
    let (has, wanted) = (copies.len() as u32, partitions_of(topic, partitions));
    if has != wanted {
        faults.push(format!("{name} has {has} partitions, not {wanted}"));
    }
    let value = |key: &str| config.get(key).and_then(|e| e.value.as_deref()).unwrap_or("not told").to_owned();
    let number = |key: &str| value(key).parse::<i64>().ok();
    for (key, wanted) in settings(topic) {
        let has = value(key);
        let fits = match key {
            "max.message.bytes" => number(key).is_some_and(|n| n >= BATCH_BYTES_MAX as i64),
            "compression.type" => true,
            _ => has == wanted,
        };
        if !fits {
            let least = if key == "max.message.bytes" { "at least " } else { "" };
            faults.push(format!("{name}: {key} is {has}, must be {least}{wanted}"));
        }
    }
    let copies = copies.iter().min().map_or(0, |n| *n as i64);
    match number("min.insync.replicas") {
        Some(least) if least > copies => {
            faults.push(format!("{name}: min.insync.replicas is {least}, but a partition has {copies} copies"));
        }
        Some(least) if copies > 1 && least < 2 => tracing::warn!(
            topic = name,
            "min.insync.replicas is {least}: a record counts as durable with one copy, and is lost with it"
        ),
        _ => {}
    }
    faults
}
