//! `kubectl` and `etcdctl` through a host's agent, and interruptions.

use crate::server::TestHost;
use crate::ssh_server::{Ending, ServerOptions};
use crate::world::{Outcome, World};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Duration;

/// A world whose host has programs, each a shell script.
fn world(programs: &[(&str, &str)]) -> (World, TestHost) {
    let world = World::new();
    let root = world.path.join("root");
    let bin = root.join("opt/cofferdam/bin");
    fs_err::create_dir_all(&bin).unwrap();
    for (name, script) in programs {
        let path = bin.join(name);
        fs_err::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let host = TestHost::with_agent(root, "Linux x86_64", &world.key);
    world.reach(host.port());
    world.run("hosts trust --yes").expect(0, &["recorded"]);
    (world, host)
}

fn spawn(world: &World, line: &str) -> Child {
    world
        .command(line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn output_arguments_and_exit_codes_pass_through() {
    let script = "echo \"out: $*\"; echo err >&2; exit 7";
    let (world, _host) = world(&[("kubectl", script), ("etcdctl", "echo members")]);
    let outcome = world.run("kubectl -- get pods -o wide --all-namespaces");
    assert_eq!(outcome.code, 7);
    assert_eq!(outcome.stdout, "out: get pods -o wide --all-namespaces\n");
    assert_eq!(outcome.stderr, "err\n");
    let outcome = world.run("etcdctl -- member list");
    assert_eq!(outcome.text(), "exit 0\nmembers\n");
}

#[test]
fn input_is_passed_on_where_it_is_read() {
    let (world, _host) = world(&[("kubectl", "cat | tr a-z A-Z")]);
    for line in ["kubectl -- apply -f -", "kubectl --stdin -- whatever"] {
        let mut child = spawn(&world, line);
        child
            .stdin
            .take()
            .unwrap()
            .write_all(b"kind: pod\n")
            .unwrap();
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        assert_eq!(outcome.text(), "exit 0\nKIND: POD\n", "{line}");
    }
}

/// As in a loop over lines: what isn't asked for is left to others.
#[test]
fn a_program_ends_though_its_input_is_still_open() {
    let (world, _host) = world(&[("kubectl", "echo done; exit 3")]);
    for line in ["kubectl -- get nodes", "kubectl -- exec -i web -- true"] {
        let mut child = spawn(&world, line);
        let input = child.stdin.take();
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        assert_eq!(outcome.text(), "exit 3\ndone\n", "{line}");
        drop(input);
    }
}

#[test]
fn output_comes_while_a_program_runs() {
    let script = "echo first; read line; echo \"then $line\"";
    let (world, _host) = world(&[("kubectl", script)]);
    let mut child = spawn(&world, "kubectl --stdin -- attach");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    child.stdin.take().unwrap().write_all(b"second\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "then second");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_program_that_is_not_there_is_a_failure_with_a_name() {
    let (world, _host) = world(&[]);
    world
        .run("kubectl -- get nodes")
        .expect(1, &["m1: ", "kubectl", "not installed on this host"]);
}

/// The first master says nothing, and nobody waits for it.
#[test]
fn a_master_that_is_silent_leaves_it_to_the_next() {
    let (world, host) = world(&[("etcdctl", "echo $ETCDCTL_ENDPOINTS")]);
    let silent = TestHost::start(ServerOptions::new(|_| async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        Ending::Silence
    }));
    let good = world.read("inventory.toml");
    let second = &good[good.find("[[hosts]]").unwrap()..];
    let second = second
        .replace("\"m1\"", "\"m2\"")
        .replace("192.0.2.11", "192.0.2.12");
    let first = good
        .replace(&host.port().to_string(), &silent.port().to_string())
        .replace("[cluster]", "[cluster]\nsurvive = \"nothing\"");
    world.write("inventory.toml", &format!("{first}\n{second}"));
    world.run("hosts trust --yes --replace").expect(0, &[]);
    assert_eq!(
        world.run("etcdctl -- member list").text(),
        "exit 0\nhttps://192.0.2.11:2379,https://192.0.2.12:2379\n"
    );
}

/// Nothing is in hand yet, so the first signal already ends the run.
#[test]
fn signals_before_the_steps_end_the_run_with_130() {
    let host = TestHost::start(ServerOptions::new(|_| async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        Ending::Silence
    }));
    let world = World::with_port(host.port());
    world.bundle("small", "linux/amd64");
    world.run("hosts trust --yes").expect(0, &["recorded"]);
    for signal in ["INT", "TERM"] {
        let mut child = spawn(
            &world,
            "install --yes --json --bundle small.tar --trusted-key key.pub",
        );
        let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
        let connecting = |line: &str| line.contains("phase-started") && line.contains("connect");
        assert!(events.any(|line| connecting(&line.unwrap())));
        let process = rustix::process::Pid::from_child(&child);
        let signal = match signal {
            "INT" => rustix::process::Signal::INT,
            _ => rustix::process::Signal::TERM,
        };
        rustix::process::kill_process(process, signal).unwrap();
        let last = events.map(Result::unwrap).last().unwrap();
        assert!(last.contains("run-failed"), "{last}");
        let outcome = Outcome::of(child.wait_with_output().unwrap());
        outcome.expect(130, &["error: interrupted: no host was changed"]);
    }
}
