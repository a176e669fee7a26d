//! What a registry that is not cofferdam's has, asked before anything depends on it.

use super::channel::NoticeSender;
use super::http;
use super::registry_client::RegistryClient;
use crate::host::{Failure, Notice, RegistryItem, RegistryQuestion};
use anyhow::Result;
use futures_util::{StreamExt as _, stream};
use reqwest::header::ACCEPT;
use reqwest::{Method, StatusCode};
use std::time::Duration;

/// Questions on their way at once.
const AT_ONCE: usize = 8;
/// A registry that says nothing for so long is asked again.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
const TRIES: u32 = 5;
/// Then twice as long each time: who is asked too often says so (429).
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The items that the registry lacks.
///
/// # Errors
/// If it can't be reached or does not let this host in; with what to look at.
pub async fn lacking(
    question: &RegistryQuestion,
    notices: &NoticeSender,
) -> Result<Vec<RegistryItem>> {
    let client = RegistryClient::of(
        &question.registry,
        &question.ca,
        question.authorization.as_deref(),
        QUIET_LIMIT,
    )?;
    let total = question.items.len() as u64;
    // Futures first: a closure inside the stream would be too narrow in its
    // lifetimes for a spawned task.
    let work: Vec<_> = question
        .items
        .iter()
        .map(|item| has(&client, &question.registry, item))
        .collect();
    let mut answers = stream::iter(work).buffered(AT_ONCE);
    let mut lacking = Vec::new();
    for (done, item) in (1..).zip(&question.items) {
        let Some(has) = answers.next().await else {
            break;
        };
        if !has? {
            lacking.push(item.clone());
        }
        notices.send_lossy(Notice::Progress {
            item: "blobs".to_owned(),
            done,
            total,
        });
    }
    Ok(lacking)
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
        let (is_passing, reason, hint) = match request.send().await {
            Ok(answer) => match answer.status() {
                status if status.is_success() => return Ok(true),
                StatusCode::NOT_FOUND => return Ok(false),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    (false, told(answer.status()), LOGIN_HINT)
                }
                status => {
                    let is_passing =
                        status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                    (is_passing, told(status), ANSWER_HINT)
                }
            },
            Err(error) => (true, http::reason(&error), REACH_HINT),
        };
        if !is_passing || tries == TRIES {
            return Err(Failure {
                message: format!("asking the registry {registry} for {path}: {reason}"),
                lines: Vec::new(),
                hint: Some(hint.to_owned()),
            }
            .into());
        }
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries - 1)).await;
    }
}

fn told(status: StatusCode) -> String {
    format!("status {}", status.as_u16())
}

const LOGIN_HINT: &str = "it does not let this host read: look at `user` and `password_file` of \
    [registry]; it must take both with each request (Basic)";
const ANSWER_HINT: &str = "it was reached, so its own log tells why it answers like that";
const REACH_HINT: &str = "see that this host resolves its name and reaches it (`cofferdam ports` \
    lists the rules), and that `ca_file` of [registry] is what it has its certificate of";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use crate::agent::failure::failure_of;
    use crate::digest::Digest;
    use crate::testing::registry::{Answer, FakeRegistry};

    fn item(name: &str, manifest: bool) -> RegistryItem {
        RegistryItem {
            repository: "pause".to_owned(),
            digest: Digest::of(name),
            manifest: manifest.then(|| "application/x".to_owned()),
        }
    }

    async fn ask(registry: &FakeRegistry, items: &[RegistryItem]) -> Result<Vec<RegistryItem>> {
        let (notices, _receiver) = notice_channel();
        let question = RegistryQuestion {
            registry: registry.registry.clone(),
            ca: registry.ca.clone(),
            authorization: Some("Basic eDp5".to_owned()),
            items: items.to_vec(),
        };
        lacking(&question, &notices).await
    }

    #[tokio::test]
    async fn what_it_answers_404_for_is_lacking() {
        let (there, gone) = (item("there", false), item("gone", false));
        // An index that it took as a blob alone.
        let (index, lost) = (item("index", true), item("lost", true));
        let known = [
            format!("pause/blobs/{}", there.digest),
            format!("pause/blobs/{}", index.digest),
        ];
        let answer: Box<Answer> = Box::new(move |asked, _| {
            let is_known = known.iter().any(|path| asked.line.ends_with(path));
            let is_in = asked.authorization.as_deref() == Some("Basic eDp5");
            (
                if !is_in {
                    401
                } else if is_known {
                    200
                } else {
                    404
                },
                Vec::new(),
            )
        });
        let registry = FakeRegistry::start(answer).await;
        let items = [there, gone.clone(), index, lost.clone()];
        assert_eq!(ask(&registry, &items).await.unwrap(), [gone, lost]);
        let asked = registry.asked.lock().unwrap();
        let all = asked.iter();
        assert!(
            all.clone()
                .all(|asked| asked.line.starts_with("HEAD /v2/k8s/pause/"))
        );
    }

    #[tokio::test]
    async fn who_is_busy_is_asked_again_and_who_refuses_is_not() {
        let busy: Box<Answer> = Box::new(|_, before| ([503, 429, 200][before.min(2)], Vec::new()));
        let registry = FakeRegistry::start(busy).await;
        let items = [item("there", false)];
        assert_eq!(ask(&registry, &items).await.unwrap(), []);
        for (status, hint) in [(401, "password_file"), (400, "its own log")] {
            let registry = FakeRegistry::start(Box::new(move |_, _| (status, Vec::new()))).await;
            let error = ask(&registry, &items).await.unwrap_err();
            let failure = failure_of(&error);
            assert!(
                failure.message.contains(&format!("status {status}")),
                "{failure:?}"
            );
            assert!(failure.hint.unwrap().contains(hint));
            assert_eq!(registry.asked.lock().unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn another_ca_is_told_with_its_key() {
        let mut registry = FakeRegistry::start(Box::new(|_, _| (200, Vec::new()))).await;
        registry.ca = crate::testing::authority::TestAuthority::generate().pem();
        let error = ask(&registry, &[item("there", false)]).await.unwrap_err();
        assert!(failure_of(&error).hint.unwrap().contains("`ca_file`"));
        assert!(registry.asked.lock().unwrap().is_empty());
    }
}
