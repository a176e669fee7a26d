//! A restore of etcd as the site knows it: begun from one snapshot, and gone on
//! with from the same one until all of it is done.

use super::fault::{Exit, Fault};
use super::phase::Phase;
use super::prospect::Purpose;
use super::record::recorded;
use super::snapshot_file::SnapshotFile;
use super::snapshots;
use super::standing::quoted;
use crate::bundle::inspect::human_bytes;
use crate::desired::EtcdRestore;
use crate::digest::Digest;
use crate::event::{Event, EventSink};
use crate::facts::HostFacts;
use crate::host::remote::RemoteHost;
use crate::inventory::{Inventory, Role};
use crate::output::Output;
use crate::site::Site;
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;
use time::macros::format_description;

/// Where the site notes a restore that was begun.
const BEGUN: &str = "etcd-restore.json";
/// How a snapshot is called that was taken from a host, until the restore is done.
const FETCHED: &str = "etcd-restore-";

/// What the site notes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    restore: EtcdRestore,
    /// As it was asked for; files by their absolute paths.
    from: String,
    /// Addresses of the members, by name.
    members: BTreeMap<String, String>,
}

/// A restore that is to be brought to its end.
pub(super) struct Restoring {
    pub(super) restore: EtcdRestore,
    pub(super) file: SnapshotFile,
    from: String,
    members: BTreeMap<String, String>,
    /// Whether the site doesn't know of it yet.
    is_new: bool,
}

/// Where a snapshot comes from.
pub(super) struct Source {
    /// `HOST:NAME`, or a file.
    pub(super) from: String,
    /// Whether another restore that was begun is given up.
    pub(super) anew: bool,
}

/// Refuses what else is asked for while a restore is not done. One that has
/// changed no host yet is given up by whatever else is done.
pub(super) fn refuse_if_begun(
    output: &Output,
    site: &Site,
    facts: &BTreeMap<String, HostFacts>,
    purpose: Purpose,
) -> Result<(), Fault> {
    let Some(begun) = read(site)? else {
        return Ok(());
    };
    let token = &begun.restore.token;
    let is_changed = |facts: &HostFacts| facts.etcd_restored.as_ref() == Some(token);
    if facts.values().any(is_changed) {
        let message = format!("a restore of etcd was begun ({token}) and is not done");
        return Err(Fault::new(Exit::Input, message).hint(go_on(&begun.from)));
    }
    let message = format!("a restore of etcd that was begun ({token}) has changed no host");
    let message = match purpose {
        Purpose::Look => message,
        Purpose::Change => {
            record_end(site).map_err(Fault::input)?;
            format!("{message}, and is given up")
        }
    };
    output.emit(Event::Warning {
        host: None,
        message,
    });
    Ok(())
}

fn go_on(from: &str) -> String {
    format!(
        "go on with it: `cofferdam etcd restore --from {} …`",
        quoted(from)
    )
}

fn read(site: &Site) -> Result<Option<Begun>, Fault> {
    recorded(site, BEGUN, "remove it, and begin the restore again")
}

/// The restore that was begun, or a new one. Nothing is noted yet.
pub(super) async fn find(
    output: &Arc<Output>,
    inventory: &Inventory,
    site: &Site,
    source: &Source,
    hosts: &BTreeMap<String, Arc<RemoteHost>>,
) -> Result<Restoring, Fault> {
    let phase = Phase::begin(output, "snapshot", 0);
    let begun = read(site)?;
    let place = host_and_name(inventory, &source.from);
    let (from, path) = match place {
        None => {
            let path = Utf8Path::new(&source.from);
            let whole = path.canonicalize_utf8();
            let path = whole.map_err(|error| {
                Fault::new(Exit::Input, format!("{path}: {error}"))
                    .file(path)
                    .hint("name a file, or what a host keeps: `cofferdam etcd snapshots`")
            })?;
            (path.to_string(), path)
        }
        Some(_) => {
            let name = Digest::of(&source.from).short();
            (
                source.from.clone(),
                site.path(&format!("{FETCHED}{name}.db")),
            )
        }
    };
    // Bytes that happen to be the same are the same snapshot; another host's are
    // not.
    let is_other = |begun: &Begun| place.is_some() && begun.from != from;
    if let Some(begun) = begun
        .as_ref()
        .filter(|begun| is_other(begun) && !source.anew)
    {
        return Err(another(begun, "from another snapshot"));
    }
    if let Some((host, name)) = place {
        let expected = begun.as_ref().filter(|begun| begun.from == from);
        let expected = expected.map(|begun| begun.restore.snapshot);
        if !is_there(&path, expected) {
            phase.doing(format!("reading {name} from {host}"));
            let host = hosts.get(host).ok_or_else(|| {
                let message = format!("--from {from}: {host} is left out of this run");
                Fault::new(Exit::Input, message)
            })?;
            snapshots::fetch(host, name, &path, snapshots::IfThere::Replaced, &phase).await?;
        }
    }
    phase.doing(format!("reading {path}"));
    let file = tokio::task::spawn_blocking(move || SnapshotFile::read(&path));
    let file = file.await.map_err(anyhow::Error::from)??;
    let members = members(inventory);
    let (restore, is_new) = match begun {
        Some(begun) if begun.restore.snapshot == file.digest && begun.members == members => {
            (begun.restore, false)
        }
        Some(begun) if !source.anew => {
            let why = match begun.restore.snapshot == file.digest {
                true => "for other members",
                false => "from another snapshot",
            };
            return Err(another(&begun, why));
        }
        _ => {
            let restore = EtcdRestore {
                token: token(OffsetDateTime::now_utc())?,
                snapshot: file.digest,
                size: file.size,
            };
            (restore, true)
        }
    };
    phase.done(format!("{from}, {}, whole", human_bytes(file.size)));
    Ok(Restoring {
        restore,
        file,
        from,
        members,
        is_new,
    })
}

fn another(begun: &Begun, why: &str) -> Fault {
    let members = begun.members.iter();
    let members = members.map(|(name, address)| format!("{name} ({address})"));
    let message = format!(
        "a restore {why} was begun ({}): {}, of {}",
        begun.restore.token,
        begun.from,
        members.collect::<Vec<_>>().join(", ")
    );
    let hint = format!(
        "{}; or give it up and begin this one, with `--anew`",
        go_on(&begun.from)
    );
    Fault::new(Exit::Input, message).hint(hint)
}

/// Refuses to leave out a host whose etcd or control plane is to begin anew.
pub(super) fn check_left_out(inventory: &Inventory, without: &[String]) -> Result<(), Fault> {
    let mut hosts = inventory.hosts.iter();
    let needed = hosts.find(|host| {
        let has_part = host.has(Role::Etcd) || host.has(Role::ControlPlane);
        has_part && without.contains(&host.name)
    });
    needed.map_or(Ok(()), |host| {
        let message = format!(
            "--without {}: a restore of etcd needs all its members and all masters",
            host.name
        );
        let hint = "bring it back, or put a new machine in its place, or take it out of the \
                    inventory";
        Err(Fault::new(Exit::Input, message).hint(hint))
    })
}

fn members(inventory: &Inventory) -> BTreeMap<String, String> {
    let members = inventory.etcd_members().into_iter();
    members
        .map(|host| (host.name.clone(), host.address.to_string()))
        .collect()
}

/// Whether the file is the snapshot that a restore was begun from.
fn is_there(path: &Utf8Path, expected: Option<Digest>) -> bool {
    let Some(expected) = expected else {
        return false;
    };
    SnapshotFile::read(path).is_ok_and(|file| file.digest == expected)
}

/// `m1:before-kubernetes-1.37-1.37.0`, if there is such a host.
fn host_and_name<'a>(inventory: &Inventory, from: &'a str) -> Option<(&'a str, &'a str)> {
    let (host, name) = from.split_once(':')?;
    let mut hosts = inventory.hosts.iter();
    hosts
        .any(|known| known.name == host)
        .then_some((host, name))
}

pub(super) fn token(now: OffsetDateTime) -> Result<String, Fault> {
    let shape = format_description!("[year][month][day]T[hour][minute][second]Z");
    now.format(shape)
        .map_err(|error| Fault::of(Exit::Failed, &error.into()))
}

impl Restoring {
    /// Notes it, so that only its end lets others go on.
    pub(super) fn record_begin(&self, site: &Site) -> anyhow::Result<()> {
        let begun = Begun {
            restore: self.restore.clone(),
            from: self.from.clone(),
            members: self.members.clone(),
        };
        site.write(BEGUN, &serde_json::to_vec(&begun)?)
    }

    /// What it makes irrevocable, before it is confirmed.
    pub(super) fn warning(&self) -> String {
        format!(
            "all that was written to the cluster since {} was saved is lost; what the members \
             have now stays beside it, in /var/lib/etcd/before-restore-{}",
            self.from, self.restore.token
        )
    }
}

impl Restoring {
    /// What was fetched for nothing, since it was not confirmed.
    pub(super) fn forget(&self, site: &Site) -> anyhow::Result<()> {
        match self.is_new {
            true => record_end(site),
            false => Ok(()),
        }
    }
}

/// Forgets a restore that is done.
pub(super) fn record_end(site: &Site) -> anyhow::Result<()> {
    let begun = site.path(BEGUN);
    if begun.exists() {
        fs_err::remove_file(begun)?;
    }
    for entry in site.path("").read_dir_utf8()? {
        let path = entry?.into_path();
        let name = path.file_name().unwrap_or_default();
        if name.starts_with(FETCHED) && path.extension() == Some("db") {
            fs_err::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::restore::three_masters as inventory;

    #[test]
    fn a_snapshot_is_a_file_unless_it_names_a_host() {
        let inventory = inventory();
        for (from, expected) in [
            ("m1:before-x", Some(("m1", "before-x"))),
            ("m9:before-x", None),
            ("/srv/snapshot.db", None),
            ("./m1:x.db", None),
        ] {
            assert_eq!(host_and_name(&inventory, from), expected, "{from}");
        }
    }

    #[test]
    fn others_wait_until_it_is_done_unless_no_host_was_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let site = Site::open(path, "lab").unwrap();
        site.create("lab").unwrap();
        let output = crate::commands::output(crate::output::Style {
            shape: crate::output::Shape::Quiet,
            is_colored: false,
            is_verbose: false,
        });
        let facts = |restored: Option<&str>| {
            let facts = HostFacts {
                etcd_restored: restored.map(str::to_owned),
                ..HostFacts::default()
            };
            BTreeMap::from([("m1".to_owned(), facts)])
        };
        let refused =
            |restored, purpose| refuse_if_begun(&output, &site, &facts(restored), purpose).err();
        let token = "20261129T084501Z";
        assert!(refused(Some(token), Purpose::Change).is_none());
        let restoring = Restoring {
            restore: EtcdRestore {
                token: token.to_owned(),
                snapshot: Digest::of("x"),
                size: 1,
            },
            file: SnapshotFile {
                path: "/srv/snapshot.db".into(),
                digest: Digest::of("x"),
                size: 1,
            },
            from: "/srv/a snapshot.db".to_owned(),
            members: BTreeMap::new(),
            is_new: true,
        };
        restoring.record_begin(&site).unwrap();
        site.write(&format!("{FETCHED}x.db"), b"secret").unwrap();
        let fault = refused(Some(token), Purpose::Change).unwrap();
        let failure = &fault.failures[0];
        assert!(failure.message.contains(token), "{fault:?}");
        assert!(failure.hints[0].contains("--from '/srv/a snapshot.db'"));
        // Whoever looks only leaves it.
        assert!(refused(Some("another"), Purpose::Look).is_none());
        assert!(refused(Some(token), Purpose::Look).is_some());
        assert!(refused(None, Purpose::Change).is_none());
        assert!(refused(Some(token), Purpose::Change).is_none());
        assert!(!site.path(&format!("{FETCHED}x.db")).exists());
    }

    #[test]
    fn only_hosts_without_a_part_in_it_are_left_out() {
        let inventory = inventory();
        check_left_out(&inventory, &[]).unwrap();
        let fault = check_left_out(&inventory, &["m2".to_owned()]).unwrap_err();
        assert!(
            fault.failures[0].message.contains("--without m2"),
            "{fault:?}"
        );
    }
}
