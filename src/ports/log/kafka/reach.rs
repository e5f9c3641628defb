//! The first question to brokers: whether they are there and let us in.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::context::Context;
use super::options::KafkaOptions;
use super::reader::unavailable;
use crate::ports::log::{LogError, Topic};

const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// A certificate may be only one of several brokers': others have so long to answer.
const OBJECTION_STANDS: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(500);

/// Returns once a broker has answered. Blocks.
///
/// # Errors
/// [`LogError::Refused`] with what brokers, or we of them, object to; [`LogError::Unavailable`] when none answers.
pub fn ask(kafka: &KafkaOptions) -> Result<(), LogError> {
    let context = Context::new("first question", kafka);
    let heard = context.heard();
    // A consumer, for it hears of errors and is asked for tokens whenever it is polled.
    let consumer: BaseConsumer<Context> = kafka.reader(5).create_with_context(context).map_err(unavailable)?;
    let topic = kafka.topic_name(Topic::Orders);
    let (began, mut objected) = (Instant::now(), None);
    loop {
        _ = consumer.poll(Duration::from_millis(20));
        let Err(error) = consumer.fetch_metadata(Some(&topic), LOOK) else { return Ok(()) };
        if let Some((objection, why)) = heard.lock().clone()
            && objected.get_or_insert_with(Instant::now).elapsed() >= OBJECTION_STANDS
        {
            return Err(LogError::Refused { objection, why });
        }
        if began.elapsed() >= ANSWER_WITHIN {
            return Err(unavailable(error));
        }
    }
}
