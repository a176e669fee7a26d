//! Rules for names, labels, users and flags, as pure functions: `Ok`, or what is wrong.

/// RFC 1123 section 2.1 and Kubernetes' `IsDNS1123Label`: 63 characters at most.
const LABEL_LIMIT: usize = 63;
/// Kubernetes' `IsDNS1123Subdomain`.
const DNS_NAME_LIMIT: usize = 253;
/// Longest login name that Linux' `useradd` takes.
const USER_LIMIT: usize = 32;

/// Labels and label prefixes that Kubernetes or cofferdam itself sets on nodes.
const OWN_LABELS: [&str; 9] = [
    "topology.kubernetes.io/zone",
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/etcd",
    "node-role.kubernetes.io/registry",
    "node-role.kubernetes.io/worker",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
];
/// Prefixes below `kubernetes.io` that operators may use.
const FREE_KUBERNETES_PREFIXES: [&str; 4] = [
    "node-restriction.kubernetes.io",
    "node-role.kubernetes.io",
    "node.kubernetes.io",
    "topology.kubernetes.io",
];

/// An RFC 1123 label: what hosts, zones and clusters are named by.
pub(super) fn check_label(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > LABEL_LIMIT {
        return Err("is longer than 63 characters");
    }
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("has an upper-case letter");
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    {
        return Err("may hold only lower-case letters, digits and dashes");
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err("must begin and end with a letter or a digit");
    }
    Ok(())
}

/// A DNS name: labels with dots between, the last not all digits (so that a mistyped address is
/// no name).
pub(super) fn check_dns_name(name: &str) -> Result<(), &'static str> {
    if name.len() > DNS_NAME_LIMIT {
        return Err("is longer than 253 characters");
    }
    for label in name.split('.') {
        check_label(label).map_err(|reason| match reason {
            "is empty" => "has an empty part between dots",
            other => other,
        })?;
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.chars().all(|c| c.is_ascii_digit()) {
        return Err("ends with a number, but is no IPv4 address");
    }
    Ok(())
}

/// The name of a user to log in as.
pub(super) fn check_user(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > USER_LIMIT {
        return Err("is longer than 32 characters");
    }
    if name.starts_with('-') {
        return Err("begins with a dash");
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    {
        return Err("may hold only letters, digits, dashes, dots and underscores");
    }
    Ok(())
}

/// The name of a component's flag, without its dashes.
pub(super) fn check_flag_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.starts_with('-') {
        return Err("is written with its dashes; leave them out");
    }
    if name.contains('=') {
        return Err("holds `=`; the value belongs behind the key");
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    {
        return Err("may hold only letters, digits, dashes, dots and underscores");
    }
    Ok(())
}

/// A node label's key: `name` or `prefix/name`, not one that Kubernetes or cofferdam sets.
///
/// Syntax as in Kubernetes' `IsQualifiedName`.
pub(super) fn check_label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    check_qualified(name).map_err(|reason| match prefix {
        Some(_) => format!("has a name behind the slash that {reason}"),
        None => reason.to_owned(),
    })?;
    let Some(prefix) = prefix else { return Ok(()) };
    check_dns_name(prefix).map_err(|reason| format!("has a prefix that {reason}"))?;
    if OWN_LABELS.contains(&key) || is_below(prefix, "cofferdam.io") {
        return Err("is set by cofferdam or Kubernetes itself".to_owned());
    }
    let upstream = is_below(prefix, "kubernetes.io") || is_below(prefix, "k8s.io");
    if upstream && !FREE_KUBERNETES_PREFIXES.contains(&prefix) {
        return Err(format!(
            "has a prefix that is reserved for Kubernetes; free ones are {}",
            FREE_KUBERNETES_PREFIXES.join(", ")
        ));
    }
    Ok(())
}

/// A node label's value: empty, or like a name.
pub(super) fn check_label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() {
        Ok(())
    } else {
        check_qualified(value)
    }
}

/// What to write instead of a bad RFC 1123 label.
pub(super) fn label_remedy(name: &str) -> String {
    let candidate: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let candidate = candidate.trim_matches('-');
    if candidate.len() < name.len() / 2 || check_label(candidate).is_err() {
        return "name it by an RFC 1123 label, such as `m1` or `rack-7`".to_owned();
    }
    format!("write `{candidate}`, for one")
}

fn check_qualified(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > LABEL_LIMIT {
        return Err("is longer than 63 characters");
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    {
        return Err("may hold only letters, digits, dashes, dots and underscores");
    }
    let is_bound = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !is_bound(name.chars().next()) || !is_bound(name.chars().next_back()) {
        return Err("must begin and end with a letter or a digit");
    }
    Ok(())
}

fn is_below(domain: &str, parent: &str) -> bool {
    domain == parent
        || domain
            .strip_suffix(parent)
            .is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        let long = "a".repeat(64);
        let good = ["a", "m1", "10", "rack-7", &long[..63]];
        let bad = ["", "M1", "-a", "a-", "a.b", "a_b", "ö", "a b", &long];
        for name in good {
            assert_eq!(check_label(name), Ok(()), "{name}");
        }
        for name in bad {
            assert!(check_label(name).is_err(), "{name}");
        }
    }

    #[test]
    fn dns_names() {
        for name in ["cluster.local", "k8s", "a.1b"] {
            assert_eq!(check_dns_name(name), Ok(()), "{name}");
        }
        for name in ["", ".a", "a.", "a..b", "10.0.0.256", "A.b", "*.a", "a/b"] {
            assert!(check_dns_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn label_keys() {
        let good = [
            "rack",
            "Rack_1.a",
            "example.com/rack",
            "node.kubernetes.io/instance-type",
            "topology.kubernetes.io/region",
            "node-role.kubernetes.io/ingress",
            "notkubernetes.io/x",
        ];
        let bad = [
            "",
            "/a",
            "a/",
            "a/b/c",
            "-a",
            "a b",
            "Example.com/a",
            "topology.kubernetes.io/zone",
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/arch",
            "beta.kubernetes.io/os",
            "k8s.io/x",
            "cofferdam.io/x",
            "x.cofferdam.io/y",
        ];
        for key in good {
            assert_eq!(check_label_key(key), Ok(()), "{key}");
        }
        for key in bad {
            assert!(check_label_key(key).is_err(), "{key}");
        }
        assert!(check_label_value("").is_ok() && check_label_value("r1.A_b").is_ok());
        assert!(check_label_value("r 1").is_err() && check_label_value("_r").is_err());
    }

    #[test]
    fn remedies() {
        assert_eq!(label_remedy("Master_1"), "write `master-1`, for one");
        assert_eq!(
            label_remedy("öäü"),
            "name it by an RFC 1123 label, such as `m1` or `rack-7`"
        );
    }

    #[test]
    fn users_and_flags() {
        for user in ["root", "svc.k8s", "_x", "Admin-1"] {
            assert_eq!(check_user(user), Ok(()), "{user}");
        }
        for user in ["", "-l", "a b", "a@b", &"a".repeat(33)] {
            assert!(check_user(user).is_err(), "{user}");
        }
        for flag in ["v", "audit-log-maxage", "log_dir", "a.b"] {
            assert_eq!(check_flag_name(flag), Ok(()), "{flag}");
        }
        for flag in ["", "--v", "v=2", "a b"] {
            assert!(check_flag_name(flag).is_err(), "{flag}");
        }
    }
}
