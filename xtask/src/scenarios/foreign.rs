//! A registry of the site's own, with TLS and a password, in place of cofferdam's.

use super::Context;
use super::MINOR;
use super::growth::{serves_alone, with_hosts};
use crate::lab::{JUMP_ADDRESS, Lab};
use crate::product::{Product, outcome, run_quietly};
use crate::upstream::{self, Private};
use crate::{paths, shell};
use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::process::Command;

const NAME: &str = "registry.example.org";
const PORT: u16 = 5443;
const USER: &str = "robot";
const PASSWORD: &str = "lab-password";
/// The user with the password's bcrypt, of the least cost.
const HTPASSWD: &str = "robot:$2b$04$cAQ6PZ5N.tKflTJ7bexCLuuBh2sg2Waf6wbv2xXu6WRg3pp.6zCYe\n";
/// Refused while the registry lacks what is needed or lets nobody in; then from bare
/// to pods; and then with a registry of cofferdam's own after all.
pub fn a_master_alone(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let before = fs_err::read_to_string(paths::lab()?.join("rules.nft"))?;
    let name = |change: &str| lab.ssh("m1", change);
    name(&format!("echo '{JUMP_ADDRESS} {NAME}' >> /etc/hosts"))?;
    let done = with_its_registry(context, &lab);
    let named = name(&format!("sed -i '/{NAME}/d' /etc/hosts"));
    lab.load_rules(&before)?;
    done?;
    named?;
    let own = with_hosts(context, "one", &["m1"])?;
    own.install()?;
    ensure!(own.plan()?.is_empty(), "steps are left");
    let left = "ls /etc/containerd/pki /etc/containerd/certs.d";
    let left = lab.ssh_output("m1", left)?;
    ensure!(!left.contains("foreign") && !left.contains(NAME), "{left}");
    nothing_tells_the_login(&lab)
}

fn with_its_registry(context: &Context, lab: &Lab) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let directory = Utf8Path::from_path(directory.path()).context("an odd temporary directory")?;
    let private = private(directory)?;
    let store = directory.join("store");
    let _registry = upstream::ensure(MINOR)?.private_registry_at(&store, &private)?;
    let alone = alone(context, directory)?;
    let inventory = alone.inventory.as_str();
    let mut ports = alone.command(&["ports", "-i", inventory, "--format", "nft"]);
    lab.load_rules(&run_quietly(&mut ports)?)?;

    let password = directory.join("password");
    fs_err::write(&password, "wrong\n")?;
    refused(&alone, "it does not let this host read")?;
    fs_err::write(&password, format!("{PASSWORD}\n"))?;
    let hint = format!("cofferdam registry push --to {NAME}:{PORT}/k8s --bundle …");
    refused(&alone, &hint)?;
    lab.ssh("m1", "[ ! -e /etc/kubernetes ] && [ ! -e /etc/containerd ]")
        .context("a refused run changed something")?;
    push(&alone, directory)?;
    alone.install()?;
    serves_alone(&alone)?;

    // No registry of cofferdam's, and the password in files that root alone reads.
    lab.ssh("m1", "! systemctl cat registry.service >/dev/null 2>&1")?;
    let found = lab.ssh_output("m1", &format!("{WITH_LOGIN} | xargs stat -c '%a %n'"))?;
    ensure!(
        found.lines().count() > 1 && found.lines().all(|line| line.starts_with("400 ")),
        "the login lies in\n{found}"
    );
    // A wrong password is not taken up, though nothing is to be fetched.
    fs_err::write(&password, "wrong\n")?;
    refused(&alone, "it does not let this host read")
}

/// Lists files with what requests say in `Authorization`.
const WITH_LOGIN: &str =
    "grep -rlF cm9ib3Q6bGFiLXBhc3N3b3Jk /etc /opt/cofferdam /var/lib/cofferdam";

fn nothing_tells_the_login(lab: &Lab) -> Result<()> {
    let found = lab.ssh_output("m1", &format!("{WITH_LOGIN} || true"))?;
    ensure!(found.trim().is_empty(), "the login still lies in\n{found}");
    Ok(())
}

/// The lab's first master alone, with an inventory that names the registry.
fn alone(context: &Context, directory: &Utf8Path) -> Result<Product> {
    let alone = with_hosts(context, "one", &["m1"])?;
    let text = fs_err::read_to_string(&alone.inventory)?;
    let registry = format!(
        "[registry]\naddress = \"{NAME}:{PORT}/k8s\"\naddresses = [\"{JUMP_ADDRESS}\"]\n\
         ca_file = \"{directory}/ca.crt\"\nuser = \"{USER}\"\npassword_file = \"{directory}/password\"\n"
    );
    fs_err::write(&alone.inventory, format!("{text}\n{registry}"))?;
    Ok(alone)
}

fn refused(alone: &Product, reason: &str) -> Result<()> {
    let outcome = outcome(&mut alone.verb("install", &["--yes"]))?;
    ensure!(
        outcome.status != 0 && outcome.stderr.contains(reason),
        "exit {}, not for `{reason}`:\n{}",
        outcome.status,
        outcome.stderr
    );
    Ok(())
}

fn push(product: &Product, directory: &Utf8Path) -> Result<()> {
    let to = format!("{JUMP_ADDRESS}:{PORT}/k8s");
    let mut command = product.command(&["registry", "push", "--to", &to, "--user", USER]);
    command.args(["--bundle", product.bundle.as_str()]);
    command.args(["--trusted-key", product.public_key.as_str()]);
    command.args(["--password-file", directory.join("password").as_str()]);
    command.args(["--ca-file", directory.join("ca.crt").as_str()]);
    let outcome = outcome(&mut command)?;
    ensure!(outcome.status == 0, "{}", outcome.stderr);
    // So that hosts have to put upstream's index together by themselves.
    ensure!(
        outcome.stderr.contains("takes no index"),
        "the registry is not strict:\n{}",
        outcome.stderr
    );
    Ok(())
}

/// A CA, and a certificate of it for the registry.
fn private(directory: &Utf8Path) -> Result<Private> {
    let file = |name: &str| directory.join(name);
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let make = |name: &str, more: &[&str]| -> Result<Utf8PathBuf> {
        let certificate = file(&format!("{name}.crt"));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-days", "2"]).args(key);
        command.args(["-keyout", file(&format!("{name}.key")).as_str()]);
        command.args(["-out", certificate.as_str()]).args(more);
        shell::read(&mut command)?;
        Ok(certificate)
    };
    let ca = make("ca", &["-subj", "/CN=registry CA"])?;
    let names = format!("subjectAltName=DNS:{NAME},IP:{JUMP_ADDRESS}");
    let certificate = make(
        "registry",
        &[
            "-CA",
            ca.as_str(),
            "-CAkey",
            file("ca.key").as_str(),
            "-subj",
            "/CN=registry",
            "-addext",
            &names,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ],
    )?;
    fs_err::write(file("htpasswd"), HTPASSWD)?;
    Ok(Private {
        address: format!("{JUMP_ADDRESS}:{PORT}").parse()?,
        certificate,
        key: file("registry.key"),
        htpasswd: file("htpasswd"),
    })
}
