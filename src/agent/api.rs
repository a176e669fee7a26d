//! Reads from the cluster's API as its administrator: quick, so that a wait
//! can ask several times a second. Everything that changes the cluster is done
//! by kubectl.

use super::http::{self, TlsFiles};
use super::root::Root;
use crate::layout;
use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// Reads are answered in milliseconds; an API server under start may hang.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Metrics of a busy API server are some megabytes.
const TEXT_LIMIT: Duration = Duration::from_secs(20);
/// Ten thousand pods are a hundred megabytes.
const LIST_LIMIT: Duration = Duration::from_secs(60);

/// A connection to an API server with the administrator's rights.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    server: String,
}

impl Api {
    /// Reads the administrator's kubeconfig, which masters have.
    ///
    /// # Errors
    /// If it is missing or can't be used.
    pub fn load(root: &Root) -> Result<Self> {
        let text = fs_err::read_to_string(root.path(layout::ADMIN_KUBECONFIG))
            .context("asking the cluster: only masters can")?;
        let access = parse_kubeconfig(&text)
            .with_context(|| format!("reading {}", layout::ADMIN_KUBECONFIG))?;
        Ok(Self {
            client: http::client(&access.files, ANSWER_LIMIT)?,
            server: access.server,
        })
    }

    /// Reads an object, or a list; none if there is no such thing.
    ///
    /// # Errors
    /// If the API server does not answer or refuses.
    pub async fn get(&self, path: &str) -> Result<Option<Value>> {
        self.get_within(ANSWER_LIMIT, path).await
    }

    /// Reads a list of all there is in the cluster, which may be long.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let list = self.get_within(LIST_LIMIT, path).await?;
        let mut list = list.ok_or_else(|| anyhow!("the API server has no {path}"))?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    async fn get_within(&self, limit: Duration, path: &str) -> Result<Option<Value>> {
        let url = format!("{}{path}", self.server);
        let response = self
            .client
            .get(&url)
            .timeout(limit)
            .send()
            .await
            .map_err(|error| anyhow!("asking {url}: {}", http::reason(&error)))?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let text = response
            .text()
            .await
            .map_err(|error| anyhow!("reading the answer of {url}: {}", http::reason(&error)))?;
        if !status.is_success() {
            bail!(
                "asking {url}: status {}: {}",
                status.as_u16(),
                message_of(&text)
            );
        }
        let value =
            serde_json::from_str(&text).with_context(|| format!("reading the answer of {url}"))?;
        Ok(Some(value))
    }

    /// Reads what is no object, such as `/metrics`.
    ///
    /// # Errors
    /// If the API server does not answer or refuses.
    pub async fn text(&self, path: &str) -> Result<String> {
        let url = format!("{}{path}", self.server);
        let request = self.client.get(&url).timeout(TEXT_LIMIT);
        let answer = async { request.send().await?.error_for_status()?.text().await };
        answer
            .await
            .map_err(|error| anyhow!("asking {url}: {}", http::reason(&error)))
    }
}

/// The text at a place in an object; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// The message of a Kubernetes `Status`, or the text itself.
fn message_of(text: &str) -> String {
    serde_json::from_str::<Value>(text)
        .ok()
        .and_then(|status| Some(status.get("message")?.as_str()?.to_owned()))
        .unwrap_or_else(|| text.chars().take(200).collect())
}

struct Access {
    server: String,
    files: TlsFiles,
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
    #[serde(rename = "certificate-authority-data")]
    authority: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
struct User {
    #[serde(rename = "client-certificate-data")]
    certificate: String,
    #[serde(rename = "client-key-data")]
    key: String,
}

/// Reads a kubeconfig as cofferdam writes it: one cluster, one user, all
/// data inside.
fn parse_kubeconfig(text: &str) -> Result<Access> {
    // The parser's own message may quote the text, which holds a key.
    let kubeconfig: Kubeconfig = serde_yaml_ng::from_str(text)
        .map_err(|_| anyhow!("it is not a kubeconfig with all data inside"))?;
    let cluster = kubeconfig.clusters.into_iter().next();
    let user = kubeconfig.users.into_iter().next();
    let (Some(cluster), Some(user)) = (cluster, user) else {
        bail!("it names no cluster or no user");
    };
    let decode = |text: &str, what: &str| {
        STANDARD
            .decode(text)
            .map_err(|_| anyhow!("its {what} is not Base64"))
    };
    let mut identity = decode(&user.user.certificate, "client certificate")?;
    identity.push(b'\n');
    identity.extend(decode(&user.user.key, "client key")?);
    Ok(Access {
        server: cluster.cluster.server.trim_end_matches('/').to_owned(),
        files: TlsFiles {
            authority: decode(&cluster.cluster.authority, "CA")?,
            identity: Some(identity),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_kubeconfig_and_never_quotes_it() {
        let encode = |text: &str| STANDARD.encode(text);
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: lab\n  cluster:\n    server: https://127.0.0.1:6444/\n    certificate-authority-data: {}\nusers:\n- name: admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            encode("CA"),
            encode("CERT"),
            encode("KEY")
        );
        let access = parse_kubeconfig(&text).unwrap();
        assert_eq!(access.server, "https://127.0.0.1:6444");
        assert_eq!(access.files.authority, b"CA");
        assert_eq!(access.files.identity.unwrap(), b"CERT\nKEY");
        let broken = text.replace("client-key-data", "client-key");
        let error = parse_kubeconfig(&broken).err().unwrap();
        assert!(!format!("{error:#}").contains(&encode("KEY")), "{error:#}");
    }

    #[test]
    fn finds_the_message_of_a_refusal() {
        let status = r#"{"kind":"Status","message":"nodes is forbidden","code":403}"#;
        assert_eq!(message_of(status), "nodes is forbidden");
        assert_eq!(message_of("plain"), "plain");
    }
}
