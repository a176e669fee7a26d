//! `cofferdam route` in a network namespace of its own, made by `unshare` with
//! the rights of its maker's user alone.

use std::process::{Command, Stdio};

/// Makes an interface, starts the program beside it, and sees whether the
/// route comes back after each thing that takes it away. `seen` looks for at
/// most ten seconds.
const SCRIPT: &str = r#"
set -eu
make() {
  ip link add host0 type veth peer name other0
  ip address add 10.77.1.11/24 dev host0
  ip link set other0 up
  ip link set host0 up
}
make
seen() {
  for look in $(seq 100); do
    ip route show 10.96.0.0/16 | grep -q "dev host0 proto 67 scope link src 10.77.1.11" && return 0
    sleep 0.1
  done
  echo "no route after: $1"
  exit 1
}
"$1" route --destination 10.96.0.0/16 --interface host0 --source 10.77.1.11 &
program=$!
trap 'kill $program' EXIT
seen "the start"
ip route del 10.96.0.0/16
seen "its removal"
ip link set host0 down
ip route show 10.96.0.0/16 | grep . && exit 1
ip link set host0 up
seen "the interface went down and up"
ip address del 10.77.1.11/24 dev host0
ip address add 10.77.1.11/24 dev host0
seen "the address went and came back"
ip link del host0
make
seen "the interface was made anew"
"#;

#[test]
fn a_route_that_is_taken_away_is_put_back() {
    let output = Command::new("unshare")
        .args(["--net", "--map-root-user", "sh", "-c", SCRIPT, "sh"])
        .arg(assert_cmd::cargo::cargo_bin!("cofferdam"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success(), "{told}");
}

#[test]
fn a_route_over_an_interface_that_is_not_there_is_a_failure_with_its_name() {
    let arguments =
        "route --destination 10.96.0.0/16 --interface nowhere0 --source 10.77.1.11".split(' ');
    let output = Command::new(assert_cmd::cargo::cargo_bin!("cofferdam"))
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("there is no interface `nowhere0`"), "{told}");
}
