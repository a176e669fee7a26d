//! How a member joins etcd: as a learner, which counts for nothing until it has
//! all that the others have, and then gets its vote. etcd itself refuses both
//! while that would put its quorum at risk (`--strict-reconfig-check`), also
//! for some seconds after members have found each other; so both are tried
//! until they are taken.

use crate::agent::channel::NoticeSender;
use crate::agent::etcdctl::{self, Member, hex};
use crate::agent::journal;
use crate::agent::observe::show_units;
use crate::agent::root::Root;
use crate::host::{Failure, Notice};
use anyhow::{Result, anyhow};
use std::time::Duration;
use tokio::time::Instant;

/// One question to etcd; a change of members is agreed on in milliseconds.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_secs(1);

const PROMOTING: &str = "giving it its vote in etcd";
const ETCD: &str = "etcd.service";
/// So many times it is seen dead, a second apart, before it is given up.
const DEATHS: u32 = 20;

/// Who joins, and whom to ask.
pub(super) struct Joining<'a> {
    pub(super) root: &'a Root,
    pub(super) peer_url: &'a str,
    /// Client URLs of voting members.
    pub(super) endpoints: &'a [String],
    pub(super) limit: Duration,
    pub(super) notices: &'a NoticeSender,
    /// Between two looks.
    interval: Duration,
}

impl<'a> Joining<'a> {
    pub(super) fn new(
        root: &'a Root,
        peer_url: &'a str,
        endpoints: &'a [String],
        limit_seconds: u32,
        notices: &'a NoticeSender,
    ) -> Self {
        Self {
            root,
            peer_url,
            endpoints,
            limit: Duration::from_secs(u64::from(limit_seconds)),
            notices,
            interval: POLL_INTERVAL,
        }
    }

    /// Makes the member known as a learner, unless it is known.
    ///
    /// # Errors
    /// If etcd does not take it in time.
    pub(super) async fn add_learner(&self, name: &str) -> Result<()> {
        let peer_urls = format!("--peer-urls={}", self.peer_url);
        self.until_done("adding it to etcd as a learner", |member| match member {
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
    /// If it is unknown, or not in step in time; earlier if its own etcd only
    /// dies and is started again, which is no catching up.
    pub(super) async fn promote(&self) -> Result<()> {
        tokio::select! {
            promoted = self.until_promoted() => promoted,
            failure = self.etcd_keeps_dying() => Err(failure.into()),
        }
    }

    /// Looks for the pause that systemd makes before it starts a dead unit
    /// again.
    async fn etcd_keeps_dying(&self) -> Failure {
        let mut deaths = 0;
        while deaths < DEATHS {
            tokio::time::sleep(self.interval).await;
            // One that can't be seen is not seen dying.
            let shown = show_units(self.root, &[ETCD]).await.unwrap_or_default();
            match shown.get(ETCD).map(|shown| shown.get("SubState")) {
                Some("auto-restart") => deaths += 1,
                Some("running") => deaths = 0,
                _ => {}
            }
        }
        let message = format!("{PROMOTING}: its own etcd dies again and again");
        journal::failure(self.root, ETCD, message).await
    }

    async fn until_promoted(&self) -> Result<()> {
        self.until_done(PROMOTING, |member| match member {
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
                    message: format!("{what}: {reason}"),
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
            tokio::time::sleep(self.interval).await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::channel::notice_channel;
    use crate::agent::test_host::TestHost;

    const PEER_URL: &str = "https://10.0.0.2:2380";

    /// An etcd that refuses the first `refusals` changes, and does one more
    /// than it says if `loses_answer`.
    fn etcd(refusals: usize, loses_answer: bool) -> TestHost {
        let host = TestHost::new();
        let place = host.root.path("/run").to_string();
        let answer = if loses_answer { 1 } else { 0 };
        host.write("/run/state", "none");
        host.write("/run/left", &refusals.to_string());
        host.binary(
            "etcdctl",
            &format!(
                r#"cd {place}
shift 2
one='{{"ID":17,"name":"m1","peerURLs":["https://10.0.0.1:2380"]}}'
case "$1 $2" in
'member list')
  case $(cat state) in
  none) echo "{{\"members\":[$one]}}" ;;
  learner) echo "{{\"members\":[$one,{{\"ID\":18,\"peerURLs\":[\"{PEER_URL}\"],\"isLearner\":true}}]}}" ;;
  voter) echo "{{\"members\":[$one,{{\"ID\":18,\"peerURLs\":[\"{PEER_URL}\"]}}]}}" ;;
  esac
  exit 0 ;;
esac
echo "$*" >> calls
left=$(cat left)
if [ "$left" -gt 0 ]; then
  echo $((left - 1)) > left
  echo 'Error: etcdserver: unhealthy cluster' >&2
  exit 1
fi
case "$1 $2" in
'member add') echo learner > state ;;
'member promote') echo voter > state ;;
esac
exit {answer}"#
            ),
        );
        host
    }

    async fn both(host: &TestHost, limit: Duration) -> [Result<()>; 2] {
        let (notices, _heard) = notice_channel();
        let joining = Joining {
            root: &host.root,
            peer_url: PEER_URL,
            endpoints: &["https://10.0.0.1:2379".to_owned()],
            limit,
            notices: &notices,
            interval: Duration::from_millis(20),
        };
        [joining.add_learner("m2").await, joining.promote().await]
    }

    #[tokio::test]
    async fn a_member_joins_and_is_given_its_vote_once() {
        for (refusals, loses_answer) in [(0, false), (2, false), (0, true)] {
            let host = etcd(refusals, loses_answer);
            for _ in 0..2 {
                for result in both(&host, Duration::from_secs(60)).await {
                    result.unwrap();
                }
            }
            assert_eq!(host.read("/run/state"), "voter\n");
            let calls = host.read("/run/calls");
            let done: Vec<&str> = calls.lines().skip(refusals).collect();
            let add = format!("member add m2 --learner --peer-urls={PEER_URL}");
            assert_eq!(done, [add.as_str(), "member promote 12"]);
        }
    }

    #[tokio::test]
    async fn one_that_keeps_dying_is_not_waited_for() {
        let host = etcd(1000, false);
        host.write("/run/state", "learner");
        host.program(
            "systemctl",
            "echo ActiveState=activating; echo SubState=auto-restart",
        );
        host.program("journalctl", "echo 'panic: no space left on device'");
        let [_, promoted] = both(&host, Duration::from_secs(1800)).await;
        let failure = promoted.unwrap_err().downcast::<Failure>().unwrap();
        assert!(failure.message.contains("dies again"), "{failure:?}");
        assert_eq!(failure.lines, ["panic: no space left on device"]);
    }

    #[tokio::test]
    async fn what_etcd_refuses_for_good_is_told_with_what_to_look_at() {
        let host = etcd(1000, false);
        let [added, promoted] = both(&host, Duration::ZERO).await;
        for (result, expected) in [
            (added, "adding it to etcd as a learner:"),
            (
                promoted,
                "giving it its vote in etcd: no member of etcd has https://10.0.0.2:2380",
            ),
        ] {
            let failure = result.unwrap_err().downcast::<Failure>().unwrap();
            assert!(failure.message.starts_with(expected), "{failure:?}");
            assert!(failure.hint.unwrap().contains("member list"));
        }
        assert_eq!(host.read("/run/calls").lines().count(), 1);
    }
}
