//! What others have put on the host, or run there.

use super::{Finding, Question};
use crate::desired::Content;
use crate::digest::Digest;
use crate::facts::{Entry, ProtocolNames};
use crate::layout;

/// As many traces as tell whose they are.
const TRACES_SHOWN: usize = 3;

pub(super) fn remains(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let remains = &subject.facts.remains;
        let shown: Vec<&str> = remains
            .iter()
            .take(TRACES_SHOWN)
            .map(String::as_str)
            .collect();
        let more = match remains.len().saturating_sub(shown.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let found = format!(
            "another installer has been here: {}{more}",
            shown.join(", ")
        );
        let remedy = "uninstall that first (such as by `kubeadm reset` or the other's own \
                      uninstaller), and remove what it leaves behind";
        (!remains.is_empty()).then(|| (found, remedy.to_owned()))
    })
}

/// A host that another site set up: its keys, and with them its Secrets,
/// would be overwritten.
pub(super) fn owner(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let found = &subject.facts.files.get(layout::SITE_MARK)?.entry;
        let wanted = match &subject.desired?.files.get(layout::SITE_MARK)?.content {
            Content::Plain(bytes) => Some(Digest::of(bytes)),
            _ => None,
        };
        let is_ours =
            matches!(found, Entry::File { digest, .. } if wanted.is_some() && *digest == wanted);
        let remedy = format!(
            "use the site that set it up (`site.path`, from a backup if it is lost); only if its \
             cluster is to be given up with all its Secrets, remove {} there and run again",
            layout::SITE_MARK
        );
        (!is_ours).then(|| ("it belongs to a cluster of another site".to_owned(), remedy))
    })
}

/// A file of somebody else's is not ours to complete.
pub(super) fn protocols(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let names = subject.facts.system.protocol_names;
        let found = format!("{} lacks the name of TCP or UDP", layout::PROTOCOLS_FILE);
        let remedy = "add the lines `tcp 6 TCP` and `udp 17 UDP` to it; without them kube-proxy \
                      removes all Services when it is started again";
        let is_due = names == ProtocolNames::Incomplete && subject.host.is_node();
        is_due.then(|| (found, remedy.to_owned()))
    })
}

pub(super) fn selinux(question: &Question) -> Vec<Finding> {
    question.each(|subject| {
        let mode = subject.facts.system.selinux.as_deref();
        let found = "SELinux enforces, for which there is no policy yet".to_owned();
        let remedy = "set `SELINUX=permissive` in /etc/selinux/config and run `setenforce 0`";
        (mode == Some("enforcing")).then(|| (found, remedy.to_owned()))
    })
}

pub(super) fn fapolicyd(question: &Question) -> Vec<Finding> {
    is_active(
        question,
        "fapolicyd",
        "it keeps programs that no package brought from running",
    )
}

pub(super) fn firewalld(question: &Question) -> Vec<Finding> {
    is_active(
        question,
        "firewalld",
        "it rejects the traffic of pods and Services (what is to be open between hosts is what \
         `cofferdam ports` prints)",
    )
}

fn is_active(question: &Question, service: &str, why: &str) -> Vec<Finding> {
    question.each(|subject| {
        let active = subject.facts.system.active_services.contains(service);
        let found = format!("{service} runs: {why}");
        let remedy = format!("run `systemctl disable --now {service}` there");
        active.then_some((found, remedy))
    })
}
