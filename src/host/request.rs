//! What can be asked of a host, typed. The same requests go to an agent over
//! SSH, to the agent's code in this process, and to a simulated host.

use crate::desired::{Condition, FileKind, ManifestSet};
use crate::digest::Digest;
use crate::facts::{
    ClusterFacts, Generation, HostFacts, ObserveRequest, SnapshotFacts, StoredGeneration,
    UsageFacts,
};
use crate::plan::Action;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request to a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    /// Takes the host's exclusive lock for as long as the agent lives, waiting
    /// at most so long for another run's last step. Verbs that change the host
    /// ask for it before they observe.
    Acquire {
        /// Who asks, for others who find the host taken: `ops@jump`.
        by: String,
        limit_seconds: u32,
    },
    Observe(ObserveRequest),
    /// On a master: nodes, a server-side dry-run diff of each set, and which
    /// of the conditions don't hold.
    ObserveCluster {
        manifests: BTreeMap<String, String>,
        conditions: Vec<Condition>,
    },
    /// On a master: which APIs that go away were asked for at its own API server,
    /// and which pods a drain would end for good.
    ObserveUsage,
    /// Asks a registry that is not cofferdam's.
    AskRegistry(Box<RegistryQuestion>),
    /// Does one action of a plan. For [`Action::PutBlobs`] and
    /// [`Action::Seed`] the caller sends [`Request::PutBlob`]s instead.
    Apply(Box<ApplyRequest>),
    /// A blob whose bytes follow as the request's body. Verified by digest
    /// and size before it gets its name.
    PutBlob {
        digest: Digest,
        size: u64,
        target: BlobTarget,
    },
    /// Starts the short-lived writable registry instance. It ends with
    /// `SeedStop`, or with the agent.
    SeedStart,
    SeedStop,
    /// The software generations that the host keeps, with their files.
    ReadGenerations,
    /// Which snapshots of etcd the host keeps.
    ListSnapshots,
    /// Reads one of them; its bytes come back as the output of a program would.
    ReadSnapshot {
        name: String,
    },
    /// Has a unit's processes stand still, until [`Request::Resume`] or for
    /// `limit_seconds`, whatever happens to the agent.
    Suspend {
        unit: String,
        limit_seconds: u32,
    },
    /// Lets them go on.
    Resume {
        unit: String,
    },
    /// Has the member at `endpoint`, a client URL, which leads etcd, hand that over
    /// to the member with this id (hexadecimal).
    MoveEtcdLeader {
        endpoint: String,
        to: String,
    },
    /// Runs a program with the body as its standard input; its output comes
    /// back as events while it runs.
    Run(RunRequest),
}

/// Whoever holds a host's lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInHand {
    /// `ops@jump`.
    pub by: String,
    /// By the host's clock.
    pub since: String,
}

impl std::fmt::Display for RunInHand {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { by, since } = self;
        write!(formatter, "a run by {by} since {since}")
    }
}

/// What a registry is asked for, and how to get in before the files for that are on
/// the host.
#[derive(Clone, Serialize, Deserialize)]
pub struct RegistryQuestion {
    /// `harbor.example.org/k8s`.
    pub registry: String,
    /// PEM.
    pub ca: String,
    /// A secret: what requests say in `Authorization`.
    pub authorization: Option<String>,
    pub items: Vec<RegistryItem>,
}

impl std::fmt::Debug for RegistryQuestion {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "RegistryQuestion({})", self.registry)
    }
}

/// A blob or manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RegistryItem {
    /// `registry.k8s.io/pause`.
    pub repository: String,
    pub digest: Digest,
    /// Media type of a manifest; none for a blob.
    pub manifest: Option<String>,
}

/// Where a blob goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "target")]
pub enum BlobTarget {
    /// [`crate::layout::STAGING`].
    Staging,
    /// A layer or configuration into a repository of the host's registry.
    Repository { repository: String },
    /// A manifest or index, under its digest and, if given, a tag.
    Manifest {
        repository: String,
        media_type: String,
        tag: Option<String>,
    },
}

/// An action with the bytes that the plan itself does not carry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyRequest {
    pub action: Action,
    /// For [`Action::WriteFiles`]: by path.
    pub files: BTreeMap<String, FileBody>,
    /// For [`Action::StartUnits`]: inputs digests by unit name.
    pub inputs: BTreeMap<String, Digest>,
    /// For [`Action::Apply`].
    pub manifests: Option<ManifestBody>,
    /// For [`Action::Commit`].
    pub generation: Option<Generation>,
}

impl ApplyRequest {
    /// An action that needs nothing but itself.
    pub fn of(action: Action) -> Self {
        Self {
            action,
            files: BTreeMap::new(),
            inputs: BTreeMap::new(),
            manifests: None,
            generation: None,
        }
    }
}

/// A file's bytes and attributes on their way to a host.
#[derive(Clone, Serialize, Deserialize)]
pub struct FileBody {
    /// None for a directory. Base64 on the wire.
    #[serde(with = "base64_option")]
    pub bytes: Option<Vec<u8>>,
    pub mode: u32,
    pub user: String,
    pub group: String,
    pub kind: FileKind,
    pub secret: bool,
}

impl std::fmt::Debug for FileBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "FileBody({:o} {}:{})",
            self.mode, self.user, self.group
        )
    }
}

/// Manifests to apply.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManifestBody {
    pub name: String,
    pub yaml: String,
}

impl From<&ManifestSet> for ManifestBody {
    fn from(set: &ManifestSet) -> Self {
        Self {
            name: set.name.clone(),
            yaml: set.yaml.clone(),
        }
    }
}

/// A program to run on a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRequest {
    /// A name in [`crate::layout::BIN`]: `kubectl`, `etcdctl`.
    pub program: String,
    pub arguments: Vec<String>,
    /// Whether a body follows; else standard input is empty.
    pub input: bool,
    /// Client URLs of the members that `etcdctl` asks unless its arguments name
    /// others.
    #[serde(default)]
    pub etcd_endpoints: Vec<String>,
}

/// What a host answers in the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "response")]
pub enum Response {
    Facts(Box<HostFacts>),
    Cluster(Box<ClusterFacts>),
    Usage(Box<UsageFacts>),
    /// What the registry has not got.
    Lacking {
        lacking: Vec<RegistryItem>,
    },
    /// The newest first.
    Generations {
        generations: Vec<StoredGeneration>,
    },
    Snapshots {
        snapshots: Vec<SnapshotFacts>,
    },
    Done,
    /// `true` if the blob was there already and its body was not needed.
    Stored {
        present: bool,
    },
    Exited {
        status: i32,
    },
}

/// What a host says while it works on a request. Secret-free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "notice")]
pub enum Notice {
    /// Why a wait goes on.
    Waiting { reason: String },
    /// Bytes done of a long piece of work.
    Progress { item: String, done: u64, total: u64 },
    /// A line worth the journal, such as the last lines of a unit's log.
    Log { line: String },
    /// Bytes that a program wrote.
    #[serde(with = "output_fields")]
    Output {
        stream: OutputStream,
        bytes: Vec<u8>,
    },
}

/// Which of a program's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// Why a request failed, as the host tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The cause chain on one line.
    pub message: String,
    /// The last lines of what was run, or of the unit's log.
    pub lines: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
}

mod base64_option {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_some(&STANDARD.encode(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| STANDARD.decode(text).map_err(Error::custom))
            .transpose()
    }
}

mod output_fields {
    use super::OutputStream;
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    struct Fields {
        stream: OutputStream,
        bytes: String,
    }

    pub(super) fn serialize<S: Serializer>(
        stream: &OutputStream,
        bytes: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Fields {
            stream: *stream,
            bytes: STANDARD.encode(bytes),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<(OutputStream, Vec<u8>), D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        let bytes = STANDARD.decode(fields.bytes).map_err(Error::custom)?;
        Ok((fields.stream, bytes))
    }
}
