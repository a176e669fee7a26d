//! A registry that is not cofferdam's.

use super::*;
use camino::Utf8PathBuf;
use std::net::Ipv4Addr;

fn with(registry: &str) -> String {
    format!("{CLUSTER}[registry]\n{registry}\n{ZONE}{MASTER}")
}

const GOOD: &str =
    "address = \"r.example.org:5443/k8s\"\naddresses = [\"10.0.9.9\"]\nca_file = \"ca.crt\"";

#[test]
fn hosts_run_none_then() {
    let inventory = parse(&with(GOOD), Utf8Path::new("sites/i.toml")).unwrap();
    assert!(inventory.registries().is_empty());
    let registry = inventory.registry.unwrap();
    assert_eq!(registry.address.to_string(), "r.example.org:5443/k8s");
    assert_eq!(registry.port, 5443);
    assert_eq!(registry.addresses, [Ipv4Addr::new(10, 0, 9, 9)].into());
    assert_eq!(registry.ca_file, "sites/ca.crt");
    let by_address = "address = \"10.0.9.9\"\nca_file = \"ca.crt\"";
    let inventory = parse(&with(by_address), file()).unwrap();
    let registry = inventory.registry.unwrap();
    assert_eq!(registry.addresses, [Ipv4Addr::new(10, 0, 9, 9)].into());
    assert_eq!(registry.port, 443);
}

#[test]
fn what_does_not_fit_is_told() {
    let no_addresses = "address = \"r.example.org\"\nca_file = \"ca.crt\"\nuser = \"x\"";
    insta::assert_snapshot!(complaint(&with(no_addresses)), @r#"
    checking `i.toml`: 2 problems

    i.toml:4:11: `registry.addresses`: which addresses `r.example.org` has is not told
      |
    4 | address = "r.example.org"
      |           ^^^^^^^^^^^^^^^
      = write `addresses = ["…"]`, for the port matrix; names are not looked up

    i.toml:6:8: `registry.user`: there is no password for `x`
      |
    6 | user = "x"
      |        ^^^
      = write both `user` and `password_file`, or neither
    "#);
    let scheme = "address = \"https://r.example.org\"\nca_file = \"ca.crt\"\npassword_file = \"p\"";
    insta::assert_snapshot!(complaint(&with(scheme)), @r#"
    checking `i.toml`: 2 problems

    i.toml:4:11: `registry.address`: the address has a scheme; hosts speak HTTPS to it
      |
    4 | address = "https://r.example.org"
      |           ^^^^^^^^^^^^^^^^^^^^^^^
      = write HOST, HOST:PORT or HOST/PREFIX, as for `registry push --to`

    i.toml:6:17: `registry.password_file`: whose password it is is not told
      |
    6 | password_file = "p"
      |                 ^^^
      = write both `user` and `password_file`, or neither
    "#);
    let port = "address = \"r.example.org:0/k8s\"\naddresses = [\"10.244.0.9\"]\nca_file = \"\"";
    insta::assert_snapshot!(complaint(&with(port)), @r#"
    checking `i.toml`: 3 problems

    i.toml:4:11: `registry.address`: `r.example.org:0` names no port
      |
    4 | address = "r.example.org:0/k8s"
      |           ^^^^^^^^^^^^^^^^^^^^^
      = write HOST, HOST:PORT or HOST/PREFIX, as for `registry push --to`

    i.toml:5:14: `registry.addresses`: 10.244.0.9 lies in `pod_cidr` 10.244.0.0/16, the default
      |
    5 | addresses = ["10.244.0.9"]
      |              ^^^^^^^^^^^^
      = choose a `pod_cidr` that no host or server has an address in

    i.toml:6:11: `registry.ca_file`: the path is empty
      |
    6 | ca_file = ""
      |           ^^
      = write a path, or leave the key out
    "#);
    let own = with(GOOD).replace("control-plane\"", "control-plane\", \"registry\"");
    insta::assert_snapshot!(complaint(&own), @r#"
    checking `i.toml`: 1 problem

    i.toml:12:9: `hosts.m1.roles`: the role `registry` is for cofferdam's own, and `[registry]` names another
       |
    12 | roles = ["control-plane", "registry"]
       |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       = leave out the one or the other
    "#);
    let own = with(GOOD).replace("[zones.a]", "[zones.a]\nregistry = \"a\"");
    insta::assert_snapshot!(complaint(&own), @r#"
    checking `i.toml`: 1 problem

    i.toml:8:12: `zones.a.registry`: no zone `a` has a registry
      |
    8 | registry = "a"
      |            ^^^
      = leave it out; `[registry]` names one for all
    "#);
}

#[test]
fn its_files_are_read_when_they_are_needed() {
    let directory = tempfile::tempdir().unwrap();
    let top = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
    let text = with(&format!(
        "{GOOD}\nuser = \"robot$x\"\npassword_file = \"password\""
    ));
    let mut inventory = parse(&text, &top.join("i.toml")).unwrap();
    let mut told = || inventory.read_registry().map_err(|error| error.to_string());
    let lacking = told().unwrap_err();
    assert!(
        lacking.starts_with("reading `registry.ca_file`"),
        "{lacking}"
    );
    fs_err::write(top.join("ca.crt"), "no certificate").unwrap();
    let damaged = told().unwrap_err();
    assert!(
        damaged.contains("ca.crt holds no certificates"),
        "{damaged}"
    );
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let ca = parameters.self_signed(&key).unwrap().pem();
    fs_err::write(top.join("ca.crt"), &ca).unwrap();
    fs_err::write(top.join("password"), "\nsecret").unwrap();
    let empty = told().unwrap_err();
    assert!(empty.contains("the first line of"), "{empty}");
    fs_err::write(top.join("password"), "secret\n").unwrap();
    told().unwrap();
    let access = inventory
        .registry
        .as_ref()
        .unwrap()
        .access
        .as_ref()
        .unwrap();
    assert_eq!(access.ca, ca);
    let value = access.authorization().unwrap();
    assert_eq!(value, "Basic cm9ib3QkeDpzZWNyZXQ=");
    // It shows nowhere.
    assert!(!format!("{inventory:?}").contains("secret"));
    assert!(
        !serde_json::to_string(&inventory)
            .unwrap()
            .contains("secret")
    );
}
