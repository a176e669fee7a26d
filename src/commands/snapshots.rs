//! `cofferdam etcd snapshot` and `etcd snapshots`: saves snapshots of etcd on
//! hosts of two zones, copies one here, and shows what hosts keep.

use super::connect::{self, Connection};
use super::fault::{Exit, Fault};
use super::interrupt::Interrupt;
use super::phase::Phase;
use super::snapshot_file::SnapshotFile;
use super::{conclude, restore};
use crate::bundle::inspect::human_bytes;
use crate::cli::{EtcdSnapshotArgs, EtcdSnapshotsArgs};
use crate::desired::etcd::client_url;
use crate::event::{Event, EventSink};
use crate::facts::SnapshotFacts;
use crate::host::remote::RemoteHost;
use crate::host::{ApplyRequest, Call, Host as _, HostError, Notice, Request, Response};
use crate::inventory::{Host, Inventory};
use crate::output::{Output, Style};
use crate::plan::Action;
use crate::site::Site;
use camino::Utf8Path;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The agent gives each half of saving half an hour.
const SAVE_LIMIT: Duration = Duration::from_secs(3700);
/// Without a byte of a snapshot that is read.
const READ_LIMIT: Duration = Duration::from_secs(24 * 3600);
const LIST_LIMIT: Duration = Duration::from_secs(60);
/// Zones in which one is saved.
const ZONES: usize = 2;
/// Saves and proves one in two zones.
pub(super) async fn save(args: EtcdSnapshotArgs, style: Style) -> Result<ExitCode, Fault> {
    let output = super::output(style);
    let interrupt = Interrupt::watch(&output)?;
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    if let Some(file) = args.output.as_ref().filter(|file| file.exists()) {
        let message = format!("{file} is there already");
        let fault = Fault::new(Exit::Input, message).file(file);
        return Err(fault.hint("name a file that is not there yet"));
    }
    let work = save_in_zones(&output, &inventory, &site, args.output.as_deref());
    let saved = interrupt
        .or("hosts keep the snapshots that were saved", work)
        .await;
    let saved = conclude(&output, saved)?;
    if args.json {
        let each = saved.iter().map(|(host, snapshot)| entry(host, snapshot));
        let told = json!({"snapshots": each.collect::<Vec<_>>(), "file": args.output});
        output
            .data(&format!("{told:#}\n"))
            .map_err(anyhow::Error::from)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn save_in_zones(
    output: &Arc<Output>,
    inventory: &Inventory,
    site: &Site,
    file: Option<&Utf8Path>,
) -> Result<Vec<(String, SnapshotFacts)>, Fault> {
    let phase = Phase::begin(output, "snapshot", ZONES);
    let name = format!("asked-{}", restore::token(OffsetDateTime::now_utc())?);
    let connections = connect::each(inventory, site)?;
    let mut saved: Vec<(String, SnapshotFacts)> = Vec::new();
    let mut zones: BTreeSet<&str> = BTreeSet::new();
    let mut faults: Vec<Fault> = Vec::new();
    for member in inventory.etcd_members() {
        if zones.len() == ZONES || zones.contains(member.zone.as_str()) {
            continue;
        }
        phase.doing(format!("{}: saving {name}", member.name));
        match save_on(&phase, &connections, member, &name).await {
            Ok(snapshot) => {
                zones.insert(&member.zone);
                let size = human_bytes(snapshot.size);
                output.say(&format!(
                    "saved     {}:{name}, {size}, restored and read back",
                    member.name
                ));
                saved.push((member.name.clone(), snapshot));
            }
            Err(fault) => faults.push(fault),
        }
    }
    let Some((host, _)) = saved.first() else {
        let fault = Fault::merge(faults);
        return Err(fault.unwrap_or_else(|| Fault::new(Exit::Input, "no host is a member of etcd")));
    };
    // One is enough; who could not is told.
    warn(output, faults);
    if let Some(file) = file {
        phase.doing(format!("reading it from {host}"));
        let host = connected(&connections, host).await?;
        fetch(&host, &name, file, IfThere::Kept, &phase).await?;
        output.say(&format!("copied    to {file}"));
    }
    let hosts: Vec<&str> = saved.iter().map(|(host, _)| host.as_str()).collect();
    phase.done(format!("{name} on {}", hosts.join(" ")));
    Ok(saved)
}

async fn save_on(
    phase: &Phase<'_>,
    connections: &BTreeMap<String, Connection>,
    member: &Host,
    name: &str,
) -> Result<SnapshotFacts, Fault> {
    let host = connected(connections, &member.name).await?;
    let waiting = |reason| phase.doing(format!("{}: {reason}", member.name));
    connect::acquire_one(&host, &waiting).await?;
    let action = Action::SnapshotEtcd {
        name: name.to_owned(),
        endpoint: client_url(member),
    };
    let request = Request::Apply(Box::new(ApplyRequest::of(action)));
    call(&host, request, SAVE_LIMIT, &|_| ()).await?;
    let all = list_on(&host).await?;
    let found = all.into_iter().find(|snapshot| snapshot.name == name);
    found.ok_or_else(|| {
        let message = format!("{}: {name} was saved, and is not there", member.name);
        Fault::new(Exit::Failed, message)
    })
}

fn warn(output: &Output, faults: Vec<Fault>) {
    for failure in faults.into_iter().flat_map(|fault| fault.failures) {
        // It names its host.
        let message = failure.message;
        output.emit(Event::Warning {
            host: None,
            message,
        });
    }
}

/// Shows what hosts keep.
pub(super) async fn show(args: EtcdSnapshotsArgs, style: Style) -> Result<ExitCode, Fault> {
    let output = super::output(style);
    let interrupt = Interrupt::watch(&output)?;
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    let work = list_all(&output, &inventory, &site);
    let all = interrupt.or("nothing was changed", work).await?;
    output.clear();
    let text = match args.json {
        true => {
            let each = all.iter().map(|(host, snapshot)| entry(host, snapshot));
            format!("{:#}\n", json!({"snapshots": each.collect::<Vec<_>>()}))
        }
        false => table(&all),
    };
    output.data(&text).map_err(anyhow::Error::from)?;
    Ok(ExitCode::SUCCESS)
}

async fn list_all(
    output: &Output,
    inventory: &Inventory,
    site: &Site,
) -> Result<Vec<(String, SnapshotFacts)>, Fault> {
    let connections = connect::each(inventory, site)?;
    let phase = Phase::begin(output, "look", connections.len());
    let members = inventory.etcd_members().into_iter();
    let each = members.map(|member| {
        let connections = &connections;
        let work = async move {
            let host = connected(connections, &member.name).await?;
            list_on(&host).await
        };
        (member.name.clone(), work)
    });
    let answers = phase.for_all(each).await;
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    let asked = answers.len();
    for (name, answer) in answers {
        match answer {
            Ok(snapshots) => all.extend(snapshots.into_iter().map(|each| (name.clone(), each))),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.len() == asked {
        let fault = Fault::merge(faults);
        return Err(fault.unwrap_or_else(|| Fault::new(Exit::Input, "no host is a member of etcd")));
    }
    // What others keep is worth showing.
    warn(output, faults);
    phase.done(format!("{} snapshots", all.len()));
    Ok(all)
}

/// What becomes of a file that is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfThere {
    Replaced,
    Kept,
}

/// Reads a snapshot off a host into a file, which gets its name once it is whole.
pub(super) async fn fetch(
    host: &RemoteHost,
    name: &str,
    file: &Utf8Path,
    if_there: IfThere,
    phase: &Phase<'_>,
) -> Result<(), Fault> {
    let directory = match file.parent().map(Utf8Path::as_str) {
        None | Some("") => Utf8Path::new("."),
        Some(directory) => Utf8Path::new(directory),
    };
    // For its owner alone, and gone unless it is kept.
    let written = tempfile::Builder::new()
        .prefix(".cofferdam-snapshot-")
        .tempfile_in(directory)
        .map_err(|error| Fault::input(error).file(file))?;
    let written = Mutex::new((written, Ok(())));
    let request = Request::ReadSnapshot {
        name: name.to_owned(),
    };
    let take = |notice: Notice| {
        let Notice::Output { bytes, .. } = notice else {
            return;
        };
        let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, result) = &mut *written;
        if result.is_ok() {
            *result = file.write_all(&bytes);
        }
    };
    call(host, request, READ_LIMIT, &take).await?;
    let (written, result) = written.into_inner().unwrap_or_else(PoisonError::into_inner);
    result.map_err(Fault::input)?;
    written.as_file().sync_all().map_err(Fault::input)?;
    phase.doing(format!("proving {file}"));
    let path = Utf8Path::from_path(written.path());
    let path = path.ok_or_else(|| Fault::new(Exit::Input, "an odd temporary path"))?;
    SnapshotFile::read(path)?;
    let kept = match if_there {
        IfThere::Replaced => written.persist(file),
        IfThere::Kept => written.persist_noclobber(file),
    };
    kept.map(drop)
        .map_err(|error| Fault::input(error.error).file(file))
}

pub(super) async fn connected(
    connections: &BTreeMap<String, Connection>,
    name: &str,
) -> Result<RemoteHost, Fault> {
    let connection = connections.get(name);
    let connection =
        connection.ok_or_else(|| Fault::new(Exit::Input, format!("there is no host {name}")))?;
    connection.connect().await.map_err(|unreached| {
        let fault = Fault::new(Exit::Hosts, unreached.reason);
        match unreached.hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    })
}

async fn list_on(host: &RemoteHost) -> Result<Vec<SnapshotFacts>, Fault> {
    match call(host, Request::ListSnapshots, LIST_LIMIT, &|_| ()).await? {
        Response::Snapshots { snapshots } => Ok(snapshots),
        _ => {
            let message = format!("{}: an unexpected answer to listing snapshots", host.name());
            Err(Fault::new(Exit::Failed, message))
        }
    }
}

async fn call(
    host: &RemoteHost,
    request: Request,
    limit: Duration,
    notices: &(dyn Fn(Notice) + Send + Sync),
) -> Result<Response, HostError> {
    let call = Call {
        request,
        body: None,
        notices,
        limit,
    };
    host.call(call).await
}

/// `2026-11-29T08:45:01Z`
fn when(snapshot: &SnapshotFacts) -> String {
    let time = OffsetDateTime::from_unix_timestamp(snapshot.saved).ok();
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_default()
}

fn entry(host: &str, snapshot: &SnapshotFacts) -> serde_json::Value {
    json!({
        "host": host,
        "name": snapshot.name,
        "bytes": snapshot.size,
        "saved": when(snapshot),
        "from": format!("{host}:{}", snapshot.name),
    })
}

/// What `--from` takes first, so that it can be copied.
fn table(all: &[(String, SnapshotFacts)]) -> String {
    if all.is_empty() {
        return "no host keeps a snapshot of etcd\n".to_owned();
    }
    let names = all
        .iter()
        .map(|(host, snapshot)| format!("{host}:{}", snapshot.name));
    let names: Vec<String> = names.collect();
    let width = names.iter().map(String::len).max().unwrap_or_default();
    let lines = names.iter().zip(all).map(|(name, (_, snapshot))| {
        let (size, saved) = (human_bytes(snapshot.size), when(snapshot));
        format!("{name:<width$}  {size:>9}  {saved}\n")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_a_restore_takes() {
        let snapshot = |name: &str, size, saved| SnapshotFacts {
            name: name.to_owned(),
            size,
            saved,
        };
        let all = [
            (
                "m1".to_owned(),
                snapshot("asked-1", 31_200_032, 1_795_941_901),
            ),
            ("m2".to_owned(), snapshot("before-kubernetes", 900, 0)),
        ];
        assert_eq!(
            table(&all),
            "m1:asked-1              31.2 MB  2026-11-29T08:45:01Z\n\
             m2:before-kubernetes      900 B  1970-01-01T00:00:00Z\n"
        );
        assert_eq!(table(&[]), "no host keeps a snapshot of etcd\n");
    }
}
