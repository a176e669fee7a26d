//! How a member joins etcd: as a learner, which counts for nothing until it has
//! all that the others have, and then gets its vote. etcd itself refuses both
//! while that would put its quorum at risk (`--strict-reconfig-check`), also
//! for some seconds after members have found each other; so both are tried
//! until they are taken.

use crate::agent::channel::NoticeSender;
use crate::agent::etcdctl::{self, Member, hex};
use crate::agent::root::Root;
use crate::host::{Failure, Notice};
use anyhow::{Result, anyhow};
use std::time::Duration;
use tokio::time::Instant;

/// One question to etcd; a change of members is agreed on in milliseconds.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Who joins, and whom to ask.
pub(super) struct Joining<'a> {
    pub(super) root: &'a Root,
    pub(super) peer_url: &'a str,
    /// Client URLs of voting members.
    pub(super) endpoints: &'a [String],
    pub(super) limit: Duration,
    pub(super) notices: &'a NoticeSender,
}

impl Joining<'_> {
    /// Makes the member known as a learner, unless it is known.
    ///
    /// # Errors
    /// If etcd does not take it in time.
    pub(super) async fn add_learner(&self, name: &str) -> Result<()> {
        let peer_urls = format!("--peer-urls={}", self.peer_url);
        self.until_done("adding it as a learner", |member| match member {
            Some(_) => Step::Done,
            None => Step::Run(
                ["member", "add", name, "--learner", &peer_urls]
                    .map(str::to_owned)
                    .to_vec(),
            ),
        })
        .await
    }

    /// Gives the learner its vote once it is in step, unless it has it.
    ///
    /// # Errors
    /// If it is unknown, or not in step in time.
    pub(super) async fn promote(&self) -> Result<()> {
        self.until_done("giving it its vote", |member| match member {
            None => Step::Fail(format!("no member of etcd has {}", self.peer_url)),
            Some(member) if !member.is_learner => Step::Done,
            Some(member) => Step::Run(vec![
                "member".to_owned(),
                "promote".to_owned(),
                hex(member.id),
            ]),
        })
        .await
    }

    /// Looks at the members before each try: one that was given up may have
    /// been done all the same.
    async fn until_done(&self, what: &str, next: impl Fn(Option<&Member>) -> Step) -> Result<()> {
        let begin = Instant::now();
        loop {
            let last = match self.try_once(&next).await {
                Ok(IsDone::Yes) => return Ok(()),
                Ok(IsDone::No) => continue,
                Err(error) => error,
            };
            if begin.elapsed() >= self.limit || last.downcast_ref::<Hopeless>().is_some() {
                let reason = format!("{last:#}");
                return Err(Failure {
                    message: format!("{what} to etcd: {reason}"),
                    lines: Vec::new(),
                    hint: Some(
                        "look at the members with `cofferdam etcdctl -- member list`, and at \
                         `journalctl -u etcd` on the host"
                            .to_owned(),
                    ),
                }
                .into());
            }
            let reason = format!("{last:#}");
            self.notices.send_lossy(Notice::Waiting { reason });
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn try_once(&self, next: impl Fn(Option<&Member>) -> Step) -> Result<IsDone> {
        let program = || etcdctl::program(self.root, self.endpoints, QUESTION_LIMIT);
        let listed = program()?
            .arguments(["member", "list", "-w", "json"])
            .finish()
            .await?;
        let members = etcdctl::parse_members(&listed.stdout, &listed.stderr)?;
        let member = members.iter().find(|member| {
            let mut urls = member.peer_urls.iter();
            urls.any(|url| url == self.peer_url)
        });
        match next(member) {
            Step::Done => Ok(IsDone::Yes),
            Step::Fail(reason) => Err(anyhow!(Hopeless(reason))),
            Step::Run(arguments) => {
                program()?.arguments(arguments).succeed().await?;
                Ok(IsDone::No)
            }
        }
    }
}

/// What is to be done, by what etcd knows of the member.
enum Step {
    Done,
    Run(Vec<String>),
    Fail(String),
}

enum IsDone {
    Yes,
    No,
}

/// Trying again changes nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Hopeless(String);
