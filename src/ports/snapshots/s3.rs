//! Snapshots as objects of an S3 bucket, or of any store that speaks S3.
//!
//! Every write is conditional (`If-None-Match: *`), so of two writers one wins; an object is there as a whole or not at
//! all. What the network lost on the way back is found out: an object that is there already with just these bytes is
//! the one that was to be written.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::tls;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{SnapshotKey, SnapshotStore, SnapshotStoreError, folder_name, symbol_of};
use crate::domain::Symbol;

/// Larger snapshots go up in parts of this size; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Attempts of one call, the SDK's waits between them growing and jittered.
const ATTEMPTS: u32 = 4;
/// A server may say that two conditional writes met, and that one has to try again.
const MEETINGS_MAX: u32 = 8;
const AFTER_MEETING: Duration = Duration::from_millis(50);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// One attempt, a part of [`PART_BYTES`] on a slow line included.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(30);
const ROOT: &str = "snapshots/";

/// How the bucket is reached. What is `None` is as the AWS SDK reads it from environment, profile or machine.
#[derive(Clone, Default)]
pub struct S3Options {
    pub bucket: String,
    /// Stands before the name of every object, so that two exchanges can share a bucket. Usually empty.
    pub prefix: String,
    pub region: Option<String>,
    /// Of a store that is not AWS; it is then asked path-style.
    pub endpoint: Option<String>,
    /// Access key id and secret access key.
    pub credentials: Option<(String, String)>,
    /// Certificates, in PEM, of who may vouch for the server beside those that the machine trusts.
    pub ca_pem: Option<Vec<u8>>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, prefix, region, endpoint, credentials, ca_pem } = self;
        f.debug_struct("S3Options")
            .field("bucket", bucket)
            .field("prefix", prefix)
            .field("region", region)
            .field("endpoint", endpoint)
            .field("access_key", &credentials.as_ref().map(|(key, _)| key))
            .field("has_ca", &ca_pem.is_some())
            .finish()
    }
}

/// Snapshots in a bucket.
#[derive(Debug, Clone)]
pub struct S3Snapshots {
    client: Client,
    bucket: Arc<str>,
    /// What all names begin with: the prefix and [`ROOT`].
    root: Arc<str>,
}

impl S3Snapshots {
    /// Connects, and sees that the bucket is there for us.
    ///
    /// # Errors
    /// [`SnapshotStoreError::Unavailable`].
    pub async fn open(options: S3Options) -> Result<Self, SnapshotStoreError> {
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).operation_attempt_timeout(ATTEMPT_WITHIN).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS));
        if let Some(region) = options.region {
            loader = loader.region(Region::new(region));
        }
        if let Some((key, secret)) = options.credentials {
            loader = loader.credentials_provider(Credentials::new(key, secret, None, None, "hotbook"));
        }
        if let Some(pem) = options.ca_pem {
            loader = loader.http_client(client_that_trusts(&pem)?);
        }
        let shared = loader.load().await;
        let mut config = aws_sdk_s3::config::Builder::from(&shared);
        if let Some(endpoint) = options.endpoint {
            config = config.endpoint_url(endpoint).force_path_style(true);
        }
        let client = Client::from_conf(config.build());
        let bucket = options.bucket;
        client.head_bucket().bucket(&bucket).send().await.map_err(|e| unavailable(&format!("bucket {bucket}"), &e))?;
        tracing::info!(bucket, "snapshots are in S3");
        Ok(Self { client, bucket: bucket.into(), root: format!("{}{ROOT}", options.prefix).into() })
    }

    async fn put(&self, key: SnapshotKey, content: Bytes) -> Result<(), SnapshotStoreError> {
        let name = name_of(&self.root, key);
        for meeting in 1..=MEETINGS_MAX {
            let sent = if content.len() > PART_BYTES {
                self.put_parts(&name, &content).await
            } else {
                self.put_whole(&name, &content).await
            };
            match sent {
                Ok(()) => return Ok(()),
                Err(Refused::Taken) => match self.get(key).await {
                    Ok(there) if there == content => return Ok(()),
                    Ok(_) => return Err(SnapshotStoreError::Exists { path: key.path() }),
                    // Some stores say that it is there before they show it.
                    Err(SnapshotStoreError::Missing { .. }) => tokio::time::sleep(AFTER_MEETING * meeting).await,
                    Err(error) => return Err(error),
                },
                Err(Refused::Met) => tokio::time::sleep(AFTER_MEETING * meeting).await,
                Err(Refused::Failed(error)) => return Err(error),
            }
        }
        Err(unavailable_because(&name, &format_args!("other writers met ours {MEETINGS_MAX} times")))
    }

    async fn put_whole(&self, name: &str, content: &Bytes) -> Result<(), Refused> {
        let put = self.client.put_object().bucket(&*self.bucket).key(name).if_none_match("*");
        let sent = put.body(ByteStream::from(content.clone())).send().await;
        sent.map(|_| ()).map_err(|e| Refused::from(name, &e))
    }

    /// In parts; what failed half way is taken back.
    async fn put_parts(&self, name: &str, content: &Bytes) -> Result<(), Refused> {
        let begin = self.client.create_multipart_upload().bucket(&*self.bucket).key(name);
        let begun = begin.checksum_algorithm(ChecksumAlgorithm::Crc32).send().await;
        let upload = begun.map_err(|e| Refused::from(name, &e))?.upload_id.unwrap_or_default();
        let result = self.send_parts(name, &upload, content).await;
        if result.is_err() {
            let abort = self.client.abort_multipart_upload().bucket(&*self.bucket).key(name).upload_id(&upload);
            if let Err(error) = abort.send().await {
                tracing::warn!(name, error = %DisplayErrorContext(&error), "parts of a snapshot could not be taken back");
            }
        }
        result
    }

    async fn send_parts(&self, name: &str, upload: &str, content: &Bytes) -> Result<(), Refused> {
        let mut parts = CompletedMultipartUpload::builder();
        for (number, start) in (1..).zip((0..content.len()).step_by(PART_BYTES)) {
            let part = content.slice(start..content.len().min(start + PART_BYTES));
            let call = self.client.upload_part().bucket(&*self.bucket).key(name).upload_id(upload).part_number(number);
            let call = call.checksum_algorithm(ChecksumAlgorithm::Crc32);
            let sent = call.body(ByteStream::from(part)).send().await.map_err(|e| Refused::from(name, &e))?;
            let done = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
            parts = parts.parts(done.set_checksum_crc32(sent.checksum_crc32).build());
        }
        let complete = self.client.complete_multipart_upload().bucket(&*self.bucket).key(name).upload_id(upload);
        let completed = complete.multipart_upload(parts.build()).if_none_match("*").send().await;
        completed.map(|_| ()).map_err(|e| Refused::from(name, &e))
    }

    async fn get(&self, key: SnapshotKey) -> Result<Bytes, SnapshotStoreError> {
        let name = name_of(&self.root, key);
        let found = match self.client.get_object().bucket(&*self.bucket).key(&name).send().await {
            Ok(found) => found,
            Err(e) if e.code() == Some("NoSuchKey") => return Err(SnapshotStoreError::Missing { path: key.path() }),
            Err(e) => return Err(unavailable(&name, &e)),
        };
        let body = found.body.collect().await;
        body.map(|b| b.into_bytes()).map_err(|e| unavailable_because(&name, &DisplayErrorContext(&e)))
    }

    /// All snapshots whose names begin so, in no order: a thousand for each call.
    async fn keys_below(&self, prefix: &str) -> Result<Vec<SnapshotKey>, SnapshotStoreError> {
        let mut pages = self.client.list_objects_v2().bucket(&*self.bucket).prefix(prefix).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| unavailable(prefix, &e))?;
            keys.extend(page.contents().iter().filter_map(|object| key_of(&self.root, object.key()?)));
        }
        Ok(keys)
    }

    async fn list(&self, symbol: Symbol) -> Result<Vec<SnapshotKey>, SnapshotStoreError> {
        let mut keys = self.keys_below(&format!("{}{}/", self.root, folder_name(symbol))).await?;
        keys.sort_unstable_by(|a, b| b.cmp(a));
        Ok(keys)
    }

    async fn symbols(&self) -> Result<Vec<Symbol>, SnapshotStoreError> {
        let symbols: BTreeSet<Symbol> = self.keys_below(&self.root).await?.into_iter().map(|key| key.symbol).collect();
        Ok(symbols.into_iter().collect())
    }

    async fn delete(&self, key: SnapshotKey) -> Result<(), SnapshotStoreError> {
        let name = name_of(&self.root, key);
        match self.client.delete_object().bucket(&*self.bucket).key(&name).send().await {
            Err(e) if e.code() != Some("NoSuchKey") => Err(unavailable(&name, &e)),
            _ => Ok(()),
        }
    }
}

/// Why a write did not happen.
enum Refused {
    /// The name is taken.
    Taken,
    /// Another conditional write of this name was under way.
    Met,
    Failed(SnapshotStoreError),
}

impl Refused {
    fn from<E: ProvideErrorMetadata + std::error::Error + 'static>(name: &str, error: &SdkError<E>) -> Self {
        match error.raw_response().map(|r| r.status().as_u16()) {
            Some(412) => Self::Taken,
            Some(409) => Self::Met,
            _ => Self::Failed(unavailable(name, error)),
        }
    }
}

fn unavailable<E: ProvideErrorMetadata + std::error::Error + 'static>(
    what: &str,
    error: &SdkError<E>,
) -> SnapshotStoreError {
    match error.code() {
        Some(code) => {
            unavailable_because(what, &format_args!("{code}: {}", error.message().unwrap_or("no more is told")))
        }
        None => unavailable_because(what, &DisplayErrorContext(error)),
    }
}

fn unavailable_because(what: &str, why: &dyn fmt::Display) -> SnapshotStoreError {
    SnapshotStoreError::Unavailable { why: format!("{what}: {why}") }
}

fn client_that_trusts(pem: &[u8]) -> Result<aws_sdk_s3::config::SharedHttpClient, SnapshotStoreError> {
    let store = tls::TrustStore::empty().with_native_roots(true).with_pem_certificate(pem);
    let context = tls::TlsContext::builder().with_trust_store(store).build();
    let context = context.map_err(|e| unavailable_because("certificates", &e))?;
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
    Ok(aws_smithy_http_client::Builder::new().tls_provider(provider).tls_context(context).build_https())
}

/// [`SnapshotKey::path`], but with a folder's name that no server takes for a way out of it.
fn name_of(root: &str, key: SnapshotKey) -> String {
    let path = key.path();
    format!("{root}{}/{}", folder_name(key.symbol), path.rsplit('/').next().unwrap_or_default())
}

fn key_of(root: &str, name: &str) -> Option<SnapshotKey> {
    let (folder, file) = name.strip_prefix(root)?.split_once('/')?;
    let key = SnapshotKey::from_file_name(symbol_of(folder)?, file)?;
    // A name that says the same in other words is not one of ours.
    (name_of(root, key) == name).then_some(key)
}

impl SnapshotStore for S3Snapshots {
    fn put(&self, key: SnapshotKey, content: Bytes) -> BoxFuture<'_, Result<(), SnapshotStoreError>> {
        Box::pin(self.put(key, content))
    }

    fn get(&self, key: SnapshotKey) -> BoxFuture<'_, Result<Bytes, SnapshotStoreError>> {
        Box::pin(self.get(key))
    }

    fn list(&self, symbol: Symbol) -> BoxFuture<'_, Result<Vec<SnapshotKey>, SnapshotStoreError>> {
        Box::pin(self.list(symbol))
    }

    fn symbols(&self) -> BoxFuture<'_, Result<Vec<Symbol>, SnapshotStoreError>> {
        Box::pin(self.symbols())
    }

    fn delete(&self, key: SnapshotKey) -> BoxFuture<'_, Result<(), SnapshotStoreError>> {
        Box::pin(self.delete(key))
    }
}
