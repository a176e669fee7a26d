//! Users and groups of a host. Read from the files, since a static binary has
//! no name service switch; system users made by systemd-sysusers are there.

use super::root::Root;
use std::collections::BTreeMap;

/// Names and numbers of a host's users and groups.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
    user_names: BTreeMap<u32, String>,
    group_names: BTreeMap<u32, String>,
}

impl Accounts {
    /// Reads `/etc/passwd` and `/etc/group`; a file that can't be read has no
    /// entries.
    pub fn load(root: &Root) -> Self {
        let read = |path| fs_err::read_to_string(root.path(path)).unwrap_or_default();
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    /// Parses the two files' texts.
    pub fn parse(passwd: &str, group: &str) -> Self {
        let (users, user_names) = parse_numbers(passwd);
        let (groups, group_names) = parse_numbers(group);
        Self {
            users,
            groups,
            user_names,
            group_names,
        }
    }

    /// The number of a user; a decimal number stands for itself.
    pub fn user(&self, name: &str) -> Option<u32> {
        self.users.get(name).copied().or_else(|| name.parse().ok())
    }

    /// The number of a group; a decimal number stands for itself.
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied().or_else(|| name.parse().ok())
    }

    /// The name of a user, or its number if it has none.
    pub fn user_name(&self, id: u32) -> String {
        name_or_number(&self.user_names, id)
    }

    /// The name of a group, or its number if it has none.
    pub fn group_name(&self, id: u32) -> String {
        name_or_number(&self.group_names, id)
    }
}

fn name_or_number(names: &BTreeMap<u32, String>, id: u32) -> String {
    names.get(&id).cloned().unwrap_or_else(|| id.to_string())
}

/// Lines `name:password:number:…`. The first entry of a number names it, as
/// the C library has it.
fn parse_numbers(text: &str) -> (BTreeMap<String, u32>, BTreeMap<u32, String>) {
    let mut numbers = BTreeMap::new();
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if let Ok(number) = number.parse() {
            numbers.entry(name.to_owned()).or_insert(number);
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    (numbers, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_names_and_numbers() {
        let accounts = Accounts::parse(
            "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\netcd:x:997:996::/:/bin/false\nbroken\n",
            "root:x:0:\netcd:x:996:\n",
        );
        assert_eq!(accounts.user("etcd"), Some(997));
        assert_eq!(accounts.group("etcd"), Some(996));
        assert_eq!(accounts.user_name(0), "root");
        assert_eq!(accounts.user_name(4711), "4711");
        assert_eq!(accounts.user("4711"), Some(4711));
        assert_eq!(accounts.user("nobody"), None);
    }
}
