//! Reading from registries: the nearest that answers.

use crate::agent::channel::NoticeSender;
use crate::agent::registry_client::RegistryClient;
use crate::agent::root::Root;
use crate::host::{Failure, Notice};
use anyhow::{Error, Result};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::Mutex;

/// A registry that says nothing for so long is given up for the next one.
pub(super) const QUIET_LIMIT: Duration = Duration::from_secs(20);
/// Every registry is tried so often before the step fails.
const ROUNDS: u32 = 3;
const ROUND_PAUSE: Duration = Duration::from_secs(2);

/// The registries that a host may read from, nearest first.
pub(super) struct Registries<'a> {
    addresses: &'a [String],
    client: RegistryClient,
    notices: &'a NoticeSender,
    /// They are asked last from now on, so that one that is down costs its time
    /// only once.
    avoided: Mutex<BTreeSet<String>>,
}

/// The registries to try for one thing, one after the other, in several
/// rounds.
pub(super) struct Tries<'a> {
    registries: &'a Registries<'a>,
    /// What is looked for, for people.
    what: String,
    round: u32,
    next: VecDeque<&'a String>,
    tried: Vec<String>,
}

impl<'a> Registries<'a> {
    /// With what the host has to show them. `quiet` is how long the client lets a
    /// registry say nothing.
    ///
    /// # Errors
    /// As [`RegistryClient::load`].
    pub(super) fn new(
        root: &Root,
        addresses: &'a [String],
        notices: &'a NoticeSender,
        quiet: Duration,
    ) -> Result<Self> {
        Ok(Self {
            addresses,
            client: RegistryClient::load(root, quiet)?,
            notices,
            avoided: Mutex::default(),
        })
    }

    pub(super) fn client(&self) -> &RegistryClient {
        &self.client
    }

    /// Begins to look for one thing.
    pub(super) fn tries(&'a self, what: impl Into<String>) -> Tries<'a> {
        Tries {
            registries: self,
            what: what.into(),
            round: 0,
            next: VecDeque::new(),
            tried: Vec::new(),
        }
    }

    /// Asks a registry last from now on.
    pub(super) async fn avoid(&self, address: &str) {
        self.avoided.lock().await.insert(address.to_owned());
    }

    /// Nearest first, but those to be avoided last.
    async fn in_order(&self) -> VecDeque<&'a String> {
        let avoided = self.avoided.lock().await;
        let mut addresses: Vec<&String> = self.addresses.iter().collect();
        addresses.sort_by_key(|address| avoided.contains(*address));
        addresses.into()
    }
}

impl<'a> Tries<'a> {
    /// The next registry to ask; none once all rounds are over.
    pub(super) async fn next(&mut self) -> Option<&'a str> {
        if self.next.is_empty() && self.round < ROUNDS {
            if self.round > 0 {
                tokio::time::sleep(ROUND_PAUSE).await;
            }
            self.round += 1;
            self.next = self.registries.in_order().await;
        }
        self.next.pop_front().map(String::as_str)
    }

    /// Notes why a registry did not give it.
    pub(super) fn failed(&mut self, address: &str, error: &Error) {
        if self.round == ROUNDS {
            self.tried.push(format!("{address}: {error:#}"));
        } else {
            let reason = format!("{}: {address}: {error:#}", self.what);
            let notice = Notice::Waiting { reason };
            self.registries.notices.send_lossy(notice);
        }
    }

    /// What was tried last, for people.
    pub(super) fn tried(self) -> Vec<String> {
        self.tried
    }
}

/// That something is nowhere to be had.
pub(super) fn not_to_be_had(tried: &[String]) -> Error {
    Failure {
        message: format!("it could not be had; tried {}", tried.join("; ")),
        lines: Vec::new(),
        hint: Some(
            "check that this host reaches the registries (`cofferdam ports` lists the rules), and that they serve: `registry.service` where they are cofferdam's"
                .to_owned(),
        ),
    }
    .into()
}
