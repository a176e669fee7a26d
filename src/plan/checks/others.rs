//! What others have put on the host, or run there.

use super::{Finding, Question};

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
