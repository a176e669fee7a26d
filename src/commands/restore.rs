//! A restore of etcd as the site knows it: begun from one snapshot, and gone on
//! with from the same one until all of it is done.

use super::connect;
use super::fault::{Exit, Fault};
use super::phase::Phase;
use super::snapshot_file::SnapshotFile;
use super::snapshots;
use crate::bundle::inspect::human_bytes;
use crate::desired::EtcdRestore;
use crate::digest::Digest;
use crate::inventory::Inventory;
use crate::output::Output;
use crate::site::Site;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use time::OffsetDateTime;
use time::macros::format_description;

/// Where the site notes a restore that was begun.
const BEGUN: &str = "etcd-restore.json";
/// A snapshot that was taken from a host, until the restore is done.
const FETCHED: &str = "etcd-restore.db";

/// What the site notes.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    restore: EtcdRestore,
    /// As it was asked for.
    from: String,
}

/// A restore that is to be brought to its end.
pub(super) struct Restoring {
    pub(super) restore: EtcdRestore,
    pub(super) file: SnapshotFile,
    from: String,
}

/// Where a snapshot comes from.
pub(super) struct Source {
    /// `HOST:NAME`, or a file.
    pub(super) from: String,
    /// Whether another restore that was begun is given up.
    pub(super) anew: bool,
}

/// Refuses what else is asked for while a restore is not done.
pub(super) fn refuse_if_begun(site: &Site) -> Result<(), Fault> {
    let Some(begun) = read(site)? else {
        return Ok(());
    };
    let message = format!(
        "a restore of etcd was begun ({}) and is not done",
        begun.restore.token
    );
    Err(Fault::new(Exit::Input, message).hint(go_on(&begun.from)))
}

fn go_on(from: &str) -> String {
    format!("go on with it: `cofferdam etcd restore --from {from} …`")
}

fn read(site: &Site) -> Result<Option<Begun>, Fault> {
    let path = site.path(BEGUN);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs_err::read(&path).map_err(Fault::input)?;
    let begun = serde_json::from_slice(&bytes).map_err(|error| {
        Fault::new(Exit::Input, format!("{path} can't be read: {error}"))
            .file(&path)
            .hint("remove it, and begin the restore again")
    })?;
    Ok(Some(begun))
}

/// The restore that was begun, or a new one. Nothing is noted yet.
pub(super) async fn find(
    output: &Arc<Output>,
    inventory: &Inventory,
    site: &Site,
    source: &Source,
) -> Result<Restoring, Fault> {
    let phase = Phase::begin(output, "snapshot", 0);
    let begun = read(site)?.filter(|_| !source.anew);
    let from = source.from.as_str();
    let path = match host_and_name(inventory, from) {
        None => Utf8PathBuf::from(from),
        Some((host, name)) => {
            let path = site.path(FETCHED);
            let expected = begun.as_ref().map(|begun| begun.restore.snapshot);
            if !is_there(&path, expected) {
                phase.doing(format!("reading {name} from {host}"));
                let connections = connect::each(inventory, site)?;
                let snapshot = snapshots::Place { host, name };
                snapshots::fetch(&connections, snapshot, &path, &phase).await?;
            }
            path
        }
    };
    phase.doing(format!("reading {path}"));
    let file = tokio::task::spawn_blocking(move || SnapshotFile::read(&path));
    let file = file.await.map_err(anyhow::Error::from)??;
    let restore = match begun {
        Some(begun) if begun.restore.snapshot == file.digest => begun.restore,
        Some(begun) => {
            let message = format!(
                "a restore from another snapshot was begun ({}): {}",
                begun.restore.token, begun.from
            );
            let hint = format!(
                "{}; or give it up and begin this one, with `--anew`",
                go_on(&begun.from)
            );
            return Err(Fault::new(Exit::Input, message).hint(hint));
        }
        None => EtcdRestore {
            token: token(OffsetDateTime::now_utc())?,
            snapshot: file.digest,
            size: file.size,
        },
    };
    phase.done(format!("{from}, {}, whole", human_bytes(file.size)));
    Ok(Restoring {
        restore,
        file,
        from: from.to_owned(),
    })
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

/// Forgets a restore that is done.
pub(super) fn record_end(site: &Site) -> anyhow::Result<()> {
    for name in [BEGUN, FETCHED] {
        let path = site.path(name);
        if path.exists() {
            fs_err::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> Inventory {
        let host = |name: &str, last: u8| {
            format!(
                "[[hosts]]\nname = \"{name}\"\naddress = \"10.77.1.{last}\"\nzone = \"a\"\n\
                 roles = [\"control-plane\"]\n"
            )
        };
        let text = format!(
            "[cluster]\nname = \"lab\"\nsurvive = \"host\"\n[zones.a]\n{}{}{}",
            host("m1", 11),
            host("m2", 12),
            host("m3", 13)
        );
        crate::inventory::parse(&text, "inventory.toml".into()).unwrap()
    }

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
    fn others_wait_until_it_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let path = camino::Utf8Path::from_path(directory.path()).unwrap();
        let site = Site::open(path, "lab").unwrap();
        refuse_if_begun(&site).unwrap();
        let restoring = Restoring {
            restore: EtcdRestore {
                token: "20261129T084501Z".to_owned(),
                snapshot: Digest::of("x"),
                size: 1,
            },
            file: SnapshotFile {
                path: "/srv/snapshot.db".into(),
                digest: Digest::of("x"),
                size: 1,
            },
            from: "/srv/snapshot.db".to_owned(),
        };
        restoring.record_begin(&site).unwrap();
        let fault = refuse_if_begun(&site).unwrap_err();
        let failure = &fault.failures[0];
        assert!(failure.message.contains("20261129T084501Z"), "{fault:?}");
        assert!(failure.hints[0].contains("--from /srv/snapshot.db"));
        record_end(&site).unwrap();
        refuse_if_begun(&site).unwrap();
    }
}
