//! What a registry that is not cofferdam's has, asked before anything depends on it.

use super::http;
use super::registry_client::RegistryClient;
use crate::host::{Failure, RegistryItem, RegistryQuestion};
use anyhow::{Result, anyhow, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode};
use std::time::Duration;

/// Questions on their way at once.
const AT_ONCE: usize = 8;
/// A registry that says nothing for so long is asked again.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// The items that the registry lacks.
///
/// # Errors
/// If it can't be reached or does not let this host in; with what to look at.
pub async fn lacking(question: &RegistryQuestion) -> Result<Vec<RegistryItem>> {
    let client = RegistryClient::of(
        &question.registry,
        &question.ca,
        question.authorization.as_deref(),
        QUIET_LIMIT,
    )?;
    // Futures first: a closure inside the stream would be too narrow in its
    // lifetimes for a spawned task.
    let work: Vec<_> = question
        .items
        .iter()
        .map(|item| has(&client, &question.registry, item))
        .collect();
    let has: Vec<bool> = stream::iter(work).buffered(AT_ONCE).try_collect().await?;
    let lacking = question.items.iter().zip(has);
    Ok(lacking
        .filter(|(_, has)| !has)
        .map(|(item, _)| item.clone())
        .collect())
}

async fn has(client: &RegistryClient, registry: &str, item: &RegistryItem) -> Result<bool> {
    let RegistryItem {
        repository, digest, ..
    } = item;
    if let Some(media_type) = &item.manifest {
        let path = format!("{repository}/manifests/{digest}");
        if ask(client, registry, &path, Some(media_type)).await? {
            return Ok(true);
        }
        // An index that the registry did not take as one; see `registry push`.
    }
    let path = format!("{repository}/blobs/{digest}");
    ask(client, registry, &path, None).await
}

async fn ask(
    client: &RegistryClient,
    registry: &str,
    path: &str,
    accept: Option<&str>,
) -> Result<bool> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mut request = client.request(Method::HEAD, registry, path);
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        let (is_passing, reason) = match request.send().await {
            Ok(answer) => match answer.status() {
                status if status.is_success() => return Ok(true),
                StatusCode::NOT_FOUND => return Ok(false),
                status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => bail!(Failure {
                    message: format!(
                        "the registry {registry} does not let this host read {path}: status {}",
                        status.as_u16()
                    ),
                    lines: Vec::new(),
                    hint: Some(
                        "look at `user` and `password_file` of [registry]; it must take both with \
                         each request (Basic)"
                            .to_owned()
                    ),
                }),
                status => (
                    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
                    format!("status {}", status.as_u16()),
                ),
            },
            Err(error) => (true, http::reason(&error)),
        };
        if !is_passing || tries == TRIES {
            return Err(anyhow!(Failure {
                message: format!("asking the registry {registry} for {path}: {reason}"),
                lines: Vec::new(),
                hint: Some(
                    "see that this host resolves its name and reaches it (`cofferdam ports` lists \
                     the rules), and that `ca_file` of [registry] is what it has its certificate of"
                        .to_owned()
                ),
            }));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
