//! API server, controller-manager and scheduler.

use super::builder::{Access, HostBuilder, UnitSpec, own};
use super::command_line::{Flags, flags};
use super::error::DesiredError;
use super::etcd;
use super::materials::{ADMIN, CLUSTER_CA, ENCRYPTION, ETCD_CA, FRONT_PROXY_CA, SERVICE_ACCOUNT};
use super::types::{Change, Condition, Content, FileKind, Stage};
use crate::inventory::Component;
use crate::layout;
use crate::ports::numbers::{API_SERVER_PORT, CONTROLLER_MANAGER_PORT, SCHEDULER_PORT};
use base64::{Engine, engine::general_purpose::STANDARD};

const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

const CA: &str = "/etc/kubernetes/pki/ca.crt";
const CA_KEY: &str = "/etc/kubernetes/pki/ca.key";
const FRONT_PROXY: &str = "/etc/kubernetes/pki/front-proxy-ca.crt";
const SERVICE_ACCOUNT_KEY: &str = "/etc/kubernetes/pki/sa.key";
const SERVICE_ACCOUNT_PUBLIC: &str = "/etc/kubernetes/pki/sa.pub";
const ENCRYPTION_FILE: &str = "/etc/kubernetes/encryption.yaml";
const AUDIT_POLICY: &str = "/etc/kubernetes/audit-policy.yaml";
const AUTHENTICATION: &str = "/etc/kubernetes/authentication.yaml";

/// What asks the API server of a master.
///
/// # Errors
/// When the bundle lacks a file.
pub fn client(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.binary("kubectl")?;
    builder.certificate(CA, CLUSTER_CA);
    let server = own_server(builder);
    builder.kubeconfig(
        layout::ADMIN_KUBECONFIG,
        ADMIN,
        &server,
        Access {
            user: "root",
            group: "root",
            mode: 0o600,
        },
    );
    Ok(())
}

/// All of a master's own.
///
/// # Errors
/// When the bundle lacks a file.
pub fn control_plane(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    api_server(builder)?;
    controller_manager(builder)?;
    scheduler(builder)
}

/// The API server of this very host.
fn own_server(builder: &HostBuilder<'_>) -> String {
    format!("https://{}:{API_SERVER_PORT}", builder.host.address)
}

/// Flags of one of the three, with the minor that it emulates while it soaks.
/// `--min-compatibility-version` follows by itself, and is as the old minor has it.
fn component_flags(builder: &HostBuilder<'_>, component: Component, mut own: Flags) -> Flags {
    let emulated = builder.inputs.software.emulated(&builder.host.name);
    own.extend(emulated.map(|minor| ("emulated-version".to_owned(), minor)));
    builder.overridden_flags(component, own)
}

fn api_server(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.user(API_SERVER);
    builder.binary(API_SERVER)?;
    let host = builder.host;
    let inventory = builder.inputs.inventory;
    let mine = Access::only(API_SERVER);
    let mut follows = Vec::new();
    for (kind, file) in [
        ("apiserver", "apiserver"),
        ("apiserver-etcd-client", "apiserver-etcd-client"),
        ("apiserver-kubelet-client", "apiserver-kubelet-client"),
        ("front-proxy-client", "front-proxy-client"),
    ] {
        let (certificate, key) = (
            format!("/etc/kubernetes/pki/{file}.crt"),
            format!("/etc/kubernetes/pki/{file}.key"),
        );
        builder.certificate(&certificate, &own(kind, host));
        builder.key(&key, &own(kind, host), mine);
        follows.extend([certificate, key]);
    }
    builder.certificate("/etc/kubernetes/pki/etcd-ca.crt", ETCD_CA);
    builder.certificate(FRONT_PROXY, FRONT_PROXY_CA);
    // The controller-manager signs with the same key; it is in our group.
    builder.key(
        SERVICE_ACCOUNT_KEY,
        SERVICE_ACCOUNT,
        Access {
            mode: 0o440,
            ..mine
        },
    );
    let public = builder
        .inputs
        .material(SERVICE_ACCOUNT)
        .and_then(|key| key.public_key.clone());
    let public = public.map_or(Content::Pending, |pem| Content::Plain(pem.into_bytes()));
    builder.file(
        SERVICE_ACCOUNT_PUBLIC,
        public,
        Access::PUBLIC,
        FileKind::Trust,
    );
    let encryption = builder
        .inputs
        .material(ENCRYPTION)
        .map(|key| encryption_config(&key.secret));
    builder.secret(ENCRYPTION_FILE, encryption, mine);
    builder.plain(
        AUDIT_POLICY,
        include_str!("../../templates/kubernetes/audit-policy.yaml").to_owned(),
    );
    builder.plain(
        AUTHENTICATION,
        include_str!("../../templates/kubernetes/authentication.yaml").to_owned(),
    );

    let pki = |name: &str| format!("/etc/kubernetes/pki/{name}");
    let servers: Vec<String> = inventory
        .etcd_members_for(host)
        .into_iter()
        .map(etcd::client_url)
        .collect();
    let arguments = component_flags(
        builder,
        Component::KubeApiserver,
        flags([
            ("advertise-address", host.address.to_string()),
            ("secure-port", API_SERVER_PORT.to_string()),
            ("etcd-servers", servers.join(",")),
            ("etcd-cafile", pki("etcd-ca.crt")),
            ("etcd-certfile", pki("apiserver-etcd-client.crt")),
            ("etcd-keyfile", pki("apiserver-etcd-client.key")),
            ("client-ca-file", CA.into()),
            ("tls-cert-file", pki("apiserver.crt")),
            ("tls-private-key-file", pki("apiserver.key")),
            ("tls-min-version", "VersionTLS12".into()),
            ("kubelet-certificate-authority", CA.into()),
            (
                "kubelet-client-certificate",
                pki("apiserver-kubelet-client.crt"),
            ),
            ("kubelet-client-key", pki("apiserver-kubelet-client.key")),
            (
                "kubelet-preferred-address-types",
                "InternalIP,Hostname".into(),
            ),
            (
                "service-account-issuer",
                format!(
                    "https://kubernetes.default.svc.{}",
                    inventory.cluster.domain
                ),
            ),
            ("service-account-key-file", SERVICE_ACCOUNT_PUBLIC.into()),
            (
                "service-account-signing-key-file",
                SERVICE_ACCOUNT_KEY.into(),
            ),
            (
                "service-cluster-ip-range",
                inventory.cluster.service_cidr.to_string(),
            ),
            ("authorization-mode", "Node,RBAC".into()),
            ("enable-admission-plugins", "NodeRestriction".into()),
            ("authentication-config", AUTHENTICATION.into()),
            ("requestheader-client-ca-file", FRONT_PROXY.into()),
            ("requestheader-allowed-names", "front-proxy-client".into()),
            (
                "requestheader-extra-headers-prefix",
                "X-Remote-Extra-".into(),
            ),
            ("requestheader-group-headers", "X-Remote-Group".into()),
            ("requestheader-username-headers", "X-Remote-User".into()),
            ("proxy-client-cert-file", pki("front-proxy-client.crt")),
            ("proxy-client-key-file", pki("front-proxy-client.key")),
            ("encryption-provider-config", ENCRYPTION_FILE.into()),
            ("audit-policy-file", AUDIT_POLICY.into()),
            (
                "audit-log-path",
                "/var/log/kubernetes/audit/audit.log".into(),
            ),
            ("audit-log-maxage", "30".into()),
            ("audit-log-maxbackup", "10".into()),
            ("audit-log-maxsize", "100".into()),
            ("profiling", "false".into()),
            // A stop is announced to proxies and Services before the port
            // closes; then connections are told to go elsewhere, and watches to
            // end. Late requests could be told to come again in five seconds
            // (`--shutdown-send-retry-after`): a stall for every client.
            ("shutdown-delay-duration", "10s".into()),
            ("shutdown-watch-termination-grace-period", "10s".into()),
        ]),
    );
    let text = builder.unit_text(
        API_SERVER,
        include_str!("../../templates/systemd/kube-apiserver.service"),
        API_SERVER,
        &arguments,
    )?;
    let follows: Vec<&str> = follows.iter().map(String::as_str).collect();
    builder.unit(UnitSpec {
        name: "kube-apiserver.service",
        stage: Stage::ControlPlane,
        text,
        reads: &[
            "/etc/kubernetes/pki/etcd-ca.crt",
            SERVICE_ACCOUNT_KEY,
            SERVICE_ACCOUNT_PUBLIC,
            ENCRYPTION_FILE,
            AUDIT_POLICY,
            AUTHENTICATION,
        ],
        follows: &[&follows[..], &[CA, FRONT_PROXY]].concat(),
        binaries: &[API_SERVER],
        change: Change::Restart,
        ready: Some(Condition::ApiReady {
            address: format!("{}:{API_SERVER_PORT}", host.address),
        }),
    });
    Ok(())
}

/// Secrets are written encrypted from the first one on; `identity` lets those
/// of an adopted cluster be read.
fn encryption_config(key: &[u8]) -> String {
    format!(
        "# Written by cofferdam.\napiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - secretbox:\n      keys:\n      - name: key1\n        secret: {}\n  - identity: {{}}\n",
        STANDARD.encode(key)
    )
}

fn controller_manager(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.user(CONTROLLER_MANAGER);
    builder.binary(CONTROLLER_MANAGER)?;
    let kubeconfig = "/etc/kubernetes/controller-manager.kubeconfig";
    let mine = Access::only(CONTROLLER_MANAGER);
    let server = own_server(builder);
    builder.kubeconfig(
        kubeconfig,
        &own("controller-manager", builder.host),
        &server,
        mine,
    );
    builder.key(CA_KEY, CLUSTER_CA, mine);
    let cluster = &builder.inputs.inventory.cluster;
    let arguments = component_flags(
        builder,
        Component::KubeControllerManager,
        flags([
            ("kubeconfig", kubeconfig.into()),
            ("authentication-kubeconfig", kubeconfig.into()),
            ("authorization-kubeconfig", kubeconfig.into()),
            ("bind-address", "127.0.0.1".into()),
            ("secure-port", CONTROLLER_MANAGER_PORT.to_string()),
            ("client-ca-file", CA.into()),
            ("requestheader-client-ca-file", FRONT_PROXY.into()),
            ("root-ca-file", CA.into()),
            (
                "service-account-private-key-file",
                SERVICE_ACCOUNT_KEY.into(),
            ),
            ("use-service-account-credentials", "true".into()),
            // The only signer that is open: kubelets renew their own client
            // certificates with it.
            ("cluster-signing-kubelet-client-cert-file", CA.into()),
            ("cluster-signing-kubelet-client-key-file", CA_KEY.into()),
            ("cluster-name", cluster.name.clone()),
            ("allocate-node-cidrs", "true".into()),
            ("cluster-cidr", cluster.pod_cidr.to_string()),
            ("node-cidr-mask-size", cluster.pod_mask.to_string()),
            ("service-cluster-ip-range", cluster.service_cidr.to_string()),
            ("leader-elect", "true".into()),
            ("profiling", "false".into()),
        ]),
    );
    let text = builder.unit_text(
        CONTROLLER_MANAGER,
        include_str!("../../templates/systemd/kube-controller-manager.service"),
        CONTROLLER_MANAGER,
        &arguments,
    )?;
    builder.unit(UnitSpec {
        name: "kube-controller-manager.service",
        stage: Stage::ControlPlane,
        text,
        reads: &[kubeconfig, CA, CA_KEY, SERVICE_ACCOUNT_KEY],
        follows: &[FRONT_PROXY],
        binaries: &[CONTROLLER_MANAGER],
        change: Change::Restart,
        ready: None,
    });
    Ok(())
}

fn scheduler(builder: &mut HostBuilder<'_>) -> Result<(), DesiredError> {
    builder.user(SCHEDULER);
    builder.binary(SCHEDULER)?;
    let kubeconfig = "/etc/kubernetes/scheduler.kubeconfig";
    let server = own_server(builder);
    let mine = Access::only(SCHEDULER);
    builder.kubeconfig(kubeconfig, &own("scheduler", builder.host), &server, mine);
    let arguments = component_flags(
        builder,
        Component::KubeScheduler,
        flags([
            ("kubeconfig", kubeconfig.into()),
            ("authentication-kubeconfig", kubeconfig.into()),
            ("authorization-kubeconfig", kubeconfig.into()),
            ("bind-address", "127.0.0.1".into()),
            ("secure-port", SCHEDULER_PORT.to_string()),
            ("leader-elect", "true".into()),
            ("profiling", "false".into()),
        ]),
    );
    let text = builder.unit_text(
        SCHEDULER,
        include_str!("../../templates/systemd/kube-scheduler.service"),
        SCHEDULER,
        &arguments,
    )?;
    builder.unit(UnitSpec {
        name: "kube-scheduler.service",
        stage: Stage::ControlPlane,
        text,
        reads: &[kubeconfig],
        follows: &[],
        binaries: &[SCHEDULER],
        change: Change::Restart,
        ready: None,
    });
    Ok(())
}
