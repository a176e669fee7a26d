//! Hosts that can't be reached, trusted or used, and their keys.

use crate::server::TestHost;
use crate::ssh_server::{Ending, ServerOptions};
use crate::world::{World, files};
use std::os::unix::fs::PermissionsExt;

/// Verbs that go to hosts.
fn verbs(world: &World) -> [String; 3] {
    if !world.exists("small.tar") {
        world.bundle("small", "linux/amd64");
    }
    [
        "plan --bundle small.tar --trusted-key key.pub".to_owned(),
        "install --yes --bundle small.tar --trusted-key key.pub".to_owned(),
        "kubectl -- get nodes".to_owned(),
    ]
}

#[test]
fn an_unreachable_host_is_named_with_what_to_look_at() {
    let world = World::new();
    for verb in verbs(&world) {
        world.run(&verb).expect(
            4,
            &[
                "error: connecting to m1 (",
                "hint: check that m1 is up and runs sshd",
            ],
        );
    }
}

#[test]
fn leaving_out_hosts_that_there_are_not_or_all_masters_is_refused() {
    let world = World::new();
    for verb in &verbs(&world)[..2] {
        world
            .run(&format!("{verb} --without m9"))
            .expect(2, &["has no host `m9`", "hint: its hosts are m1"]);
        world
            .run(&format!("{verb} --without m1"))
            .expect(2, &["leaves out every control-plane host", "hint: "]);
    }
}

#[test]
fn an_upgrade_leaves_out_nodes_alone() {
    let world = World::new();
    let inventory = world.read("inventory.toml");
    let host = &inventory[inventory.find("[[hosts]]").unwrap()..];
    let worker = host
        .replace("\"m1\"", "\"w1\"")
        .replace("192.0.2.11", "192.0.2.21")
        .replace("port = 1", "port = 2")
        .replace("\"control-plane\"", "\"worker\"");
    world.write("inventory.toml", &(inventory.clone() + &worker));
    let [plan, ..] = verbs(&world);
    let upgrade = plan.replace("plan", "upgrade --yes");
    world.run(&format!("{upgrade} --without m1")).expect(
        2,
        &[
            "--without m1: an upgrade takes all masters, members of etcd and registries along",
            "only a host that is nothing but a node can be left out",
        ],
    );
    world
        .run(&format!("{upgrade} --without w9"))
        .expect(2, &["has no host `w9`"]);
}

/// Refused before anybody waits for an API server that can't become ready.
#[test]
fn leaving_out_so_many_members_that_the_rest_is_no_majority_is_refused() {
    let world = World::new();
    let good = world.read("inventory.toml");
    let host = &good[good.find("[[hosts]]").unwrap()..];
    let more = ["2", "3"].map(|number| {
        host.replace("\"m1\"", &format!("\"m{number}\""))
            .replace("192.0.2.11", &format!("192.0.2.1{number}"))
            .replace("port = 1", &format!("port = {number}"))
    });
    let three = good.replace("[cluster]", "[cluster]\nsurvive = \"host\"") + &more.concat();
    world.write("inventory.toml", &three);
    for verb in &verbs(&world)[..2] {
        world
            .run(&format!("{verb} --without m2 --without m3"))
            .expect(2, &["leaves 1 of 3 members of etcd", "so many back that 2"]);
        let one = world.run(&format!("{verb} --without m2"));
        assert!(!one.stderr.contains("members of etcd"), "{}", one.text());
    }
}

#[test]
fn status_tells_what_it_could_not_reach_and_calls_it_broken() {
    let world = World::new();
    let told = world.run("status");
    assert_eq!(told.code, 2, "{}", told.text());
    for expected in [
        "lab: broken\n",
        "m1 (not reached)",
        "no API server is ready",
        "connecting to m1 (",
        "check that m1 is up and runs sshd",
    ] {
        assert!(
            told.stdout.contains(expected),
            "{expected:?} in\n{}",
            told.text()
        );
    }
    let told = world.run("status --json");
    let status: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(status["health"], "broken");
    assert_eq!(status["hosts"][0]["reached"], false);
    assert_eq!(status["hosts"][0]["node"]["state"], "unknown");
    world
        .run("status -i nowhere.toml")
        .expect(2, &["nowhere.toml"]);
}

#[test]
fn unknown_and_changed_host_keys_stop_every_verb_and_trust_is_explicit() {
    let first = TestHost::idle();
    let world = World::with_port(first.port());
    for verb in verbs(&world) {
        world.run(&verb).expect(
            4,
            &[
                "its host key is not known (ssh-ed25519 SHA256:",
                "hint: compare",
            ],
        );
    }
    let asked = world.run("hosts trust");
    asked.expect(
        2,
        &[
            "m1       SHA256:",
            "nobody is here to compare",
            "--fingerprints",
        ],
    );
    assert!(!world.exists("site-lab/host_keys"));
    world.run("hosts trust --yes").expect(0, &["recorded"]);
    let mode = |name: &str| {
        let path = world.path.join(name);
        fs_err::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("site-lab"), 0o700);
    let recorded = world.read("site-lab/host_keys");
    world
        .run("hosts trust --yes")
        .expect(0, &["recorded already"]);

    let second = TestHost::idle();
    world.reach(second.port());
    for verb in verbs(&world) {
        world.run(&verb).expect(
            4,
            &[
                "its host key has changed: expected",
                "somebody may be between",
            ],
        );
    }
    world
        .run("hosts trust --yes")
        .expect(4, &["m1: its host key has changed", "`--replace m1`"]);
    assert_eq!(world.read("site-lab/host_keys"), recorded);
    world
        .run("hosts trust --yes --replace m1")
        .expect(0, &["recorded"]);
    assert_ne!(world.read("site-lab/host_keys"), recorded);
}

#[test]
fn only_listed_fingerprints_are_recorded_and_all_others_told() {
    let (host, other) = (TestHost::idle(), TestHost::idle());
    let world = World::with_port(host.port());
    let inventory = world.read("inventory.toml");
    let host_table = &inventory[inventory.find("[[hosts]]").unwrap()..];
    let worker = |name: &str, address: &str, port: u16| {
        host_table
            .replace("\"m1\"", &format!("\"{name}\""))
            .replace("192.0.2.11", address)
            .replace("control-plane", "worker")
            .replace(
                &format!("port = {}", host.port()),
                &format!("port = {port}"),
            )
    };
    let workers = [
        worker("w1", "192.0.2.12", other.port()),
        worker("w2", "192.0.2.13", 1),
    ];
    world.write(
        "inventory.toml",
        &format!("{inventory}\n{}", workers.concat()),
    );
    let shown = world.run("hosts trust m1");
    let fingerprint = shown
        .stderr
        .split_whitespace()
        .find(|word| word.starts_with("SHA256:"))
        .unwrap()
        .to_owned();
    world.write(
        "list",
        &format!("# ours\nm1 {fingerprint}\nw1 SHA256:other\n"),
    );
    world.run("hosts trust --fingerprints list").expect(
        4,
        &[
            "m1       SHA256:",
            "recorded",
            "error: w1: it shows SHA256:",
            "the list has SHA256:other; not recorded",
            "error: connecting to w2 (",
        ],
    );
    let recorded = world.read("site-lab/host_keys");
    assert!(recorded.contains("\nm1 "), "{recorded}");
    assert_eq!(recorded.lines().count(), 2, "{recorded}");
    world.write("list", "m1 MD5:11:22\n");
    world
        .run("hosts trust --fingerprints list")
        .expect(2, &["reading list, line 1: `MD5:11:22`"]);
    world.run("hosts trust --yes nobody").expect(
        2,
        &["has no host `nobody`", "hint: its hosts are m1, w1, w2"],
    );
}

#[test]
fn refused_keys_and_hosts_without_an_agent_say_what_to_do() {
    let stranger = crate::ssh_server::random_key(russh::keys::Algorithm::Ed25519);
    let mut options = ServerOptions::new(|_| async { Ending::Status(0) });
    options.authorized = Some(vec![stranger.public_key().clone()]);
    let host = TestHost::start(options);
    let world = World::with_port(host.port());
    world.run("hosts trust --yes").expect(0, &["recorded"]);
    for verb in verbs(&world) {
        world.run(&verb).expect(
            4,
            &[
                "authentication as `root` was refused",
                "authorized_keys on m1",
            ],
        );
    }
    fs_err::remove_file(world.path.join("id")).unwrap();
    world.run("kubectl -- get nodes").expect(
        2,
        &["reading the private key", "hint: check `key` under `[ssh]`"],
    );
}

#[test]
fn a_bundle_without_the_hosts_architecture_is_refused_with_nothing_written() {
    let world = World::new();
    let root = world.path.join("root");
    fs_err::create_dir(&root).unwrap();
    let host = TestHost::with_agent(root.clone(), "Linux aarch64", &world.key);
    world.reach(host.port());
    world.run("hosts trust --yes").expect(0, &["recorded"]);
    let [plan, install, _] = verbs(&world);
    for verb in [plan, install] {
        world.run(&verb).expect(
            2,
            &[
                "m1: the bundle has no cofferdam for linux/arm64",
                "hint: build",
            ],
        );
    }
    assert_eq!(files(&root), Vec::<camino::Utf8PathBuf>::new());
}

#[test]
fn a_failed_run_is_told_as_json_and_kept_in_a_journal() {
    let world = World::new();
    let [_, install, _] = verbs(&world);
    let run = world.run(&format!("{install} --json"));
    run.expect(4, &["error: connecting to m1"]);
    let events: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&str> = events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(names.first(), Some(&"run-started"));
    assert_eq!(names.last(), Some(&"run-failed"));
    assert!(names.contains(&"phase-done"));
    let last = &events[events.len() - 1]["failures"][0];
    assert!(last["message"].as_str().unwrap().contains("m1"));
    assert!(
        last["hints"][0]
            .as_str()
            .unwrap()
            .contains("check that m1 is up")
    );
    let journals = files(&world.path.join("site-lab/journal"));
    assert_eq!(journals.len(), 1);
    let journal = fs_err::read_to_string(&journals[0]).unwrap();
    assert!(journal.lines().last().unwrap().contains("run-failed"));
    let client_key = world.read("id");
    let secret = client_key.lines().nth(1).unwrap();
    assert!(!journal.contains(secret));
}

/// `plan` takes no lock. It goes on beside a run, and says whose that is; but
/// it replaces no agent under it.
#[test]
fn a_plan_beside_a_run_says_whose_it_is_and_leaves_its_agent_alone() {
    let world = World::new();
    let root = world.path.join("root");
    fs_err::create_dir_all(root.join("run/cofferdam")).unwrap();
    let host = TestHost::with_agent(root.clone(), "Linux x86_64", &world.key);
    world.reach(host.port());
    let [plan, ..] = verbs(&world);
    world.run("hosts trust --yes").expect(0, &["recorded"]);
    let run = r#"{"by":"ops@jump","since":"2026-01-02 03:04:05 UTC"}"#;
    world.write("root/run/cofferdam/lock", run);
    let lock = fs_err::File::open(root.join("run/cofferdam/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let before = files(&root);
    world.run(&plan).expect(
        4,
        &[
            "error: m1: a run by ops@jump since 2026-01-02 03:04:05 UTC is going on, with another agent",
            "hint: run the same command again when it has ended",
        ],
    );
    assert_eq!(files(&root), before);

    // The same agent on both sides: this very program is the test host's.
    let own = std::env::current_exe().unwrap();
    fs_err::remove_file(world.path.join("agent")).unwrap();
    fs_err::os::unix::fs::symlink(own, world.path.join("agent")).unwrap();
    world.bundle("same", "linux/amd64");
    let plan = "plan --bundle same.tar --trusted-key key.pub";
    let told = "warning: m1: a run by ops@jump since 2026-01-02 03:04:05 UTC is going on";
    let beside = world.run(plan);
    assert!(beside.stderr.contains(told), "{}", beside.text());
    drop(lock);
    let alone = world.run(plan);
    assert!(!alone.stderr.contains("is going on"), "{}", alone.text());
    assert_eq!(alone.code, beside.code);
}

#[test]
fn a_second_run_on_the_same_site_is_refused() {
    let world = World::new();
    let [_, install, _] = verbs(&world);
    world.run("hosts trust --yes");
    let lock = fs_err::File::create(world.path.join("site-lab/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    world.run(&install).expect(
        1,
        &["another run holds the site", "run the same command again"],
    );
}
