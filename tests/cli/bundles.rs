//! Bundles: made, looked at, and refused.

use crate::world::World;

fn world_with_bundle() -> World {
    let world = World::new();
    world.bundle("small", "linux/amd64");
    world
}

#[test]
fn a_bundle_is_made_verified_and_shown() {
    let world = world_with_bundle();
    let verified = world.run("bundle verify small.tar --trusted-key key.pub");
    verified.expect(0, &["small 1.0.0 is good: signed by"]);
    assert_eq!(verified.stdout, "");
    let json = world.run("bundle verify small.tar --trusted-key key.pub --json");
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["name"], "small");
    assert_eq!(value["damages"], serde_json::json!([]));
    let shown = world.run("bundle inspect small.tar --json");
    let value: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let names: Vec<&str> = value["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["cofferdam", "tool"]);
    let table = world.run("bundle inspect small.tar");
    assert!(
        table
            .stdout
            .starts_with("bundle small 1.0.0 for linux/amd64")
    );
}

#[test]
fn the_same_lock_and_key_give_the_same_bytes_and_quiet_is_quiet() {
    let world = world_with_bundle();
    let again = world.run(
        "--quiet bundle build small.toml --cache other --sign-key key --agent linux/amd64=agent -o again.tar",
    );
    assert_eq!(again.text(), "exit 0\n");
    let read = |name| fs_err::read(world.path.join(name)).unwrap();
    assert!(read("small.tar") == read("again.tar"), "the bytes differ");
    // Elsewhere, in another time zone and language, for nobody else's eyes.
    let elsewhere = world.path.join("elsewhere");
    fs_err::create_dir(&elsewhere).unwrap();
    for name in ["small.toml", "small.lock", "key", "agent"] {
        fs_err::copy(world.path.join(name), elsewhere.join(name)).unwrap();
    }
    let build = "umask 077; exec \"$0\" bundle build small.toml --cache third --sign-key key \
                 --agent linux/amd64=agent -o small.tar";
    let status = std::process::Command::new("sh")
        .args(["-c", build])
        .arg(assert_cmd::cargo::cargo_bin!("cofferdam"))
        .current_dir(&elsewhere)
        .env("TZ", "Pacific/Kiritimati")
        .env("LC_ALL", "tr_TR.UTF-8")
        .env("HOME", &elsewhere)
        .status();
    assert!(status.unwrap().success());
    let same = read("small.tar") == read("elsewhere/small.tar");
    assert!(same, "the bytes differ");
}

/// A lock tells what is another than in the one before, and whether it is still
/// that of its definition; two bundles tell what differs between them.
#[test]
fn what_changes_from_one_release_to_the_next_is_told() {
    let world = world_with_bundle();
    fs_err::rename(world.path.join("small.tar"), world.path.join("old.tar")).unwrap();
    let check = "bundle lock small.toml --check";
    world
        .run(check)
        .expect(0, &["small.lock is that of small.toml"]);

    let definition = world.read("small.toml");
    let later = definition.replacen("version = \"1.0.0\"", "version = \"1.0.1\"", 1);
    let later = later.replace("version = \"1\"", "version = \"2\"");
    assert_ne!(later, definition);
    world.write("small.toml", &later);
    world.write("tool", "a better tool\n");
    world.run(check).expect(
        2,
        &[
            "small.lock is not of small.toml",
            "not in the lock: file tool 2 for linux/amd64",
            "in the lock alone: file tool 1 for linux/amd64",
            "hint: run `cofferdam bundle lock small.toml`",
        ],
    );
    let before = world.read("small.lock");
    let lock = world.run("bundle lock small.toml --cache again");
    assert_eq!(lock.code, 0, "{}", lock.text());
    assert_ne!(world.read("small.lock"), before);
    let line = lock
        .stdout
        .lines()
        .find(|line| line.contains("tool"))
        .unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(
        words,
        ["~", "file", "tool", "linux/amd64", "1", "2", "+7", "B"]
    );
    world.run(check).expect(0, &[]);

    let build =
        "bundle build small.toml --cache again --sign-key key --agent linux/amd64=agent -o new.tar";
    world.run(build).expect(0, &[]);
    let diff = world.run("bundle diff old.tar new.tar");
    diff.expect(
        0,
        &["small 1.0.0 to small 1.0.1: 1 changed, 0 added, 0 removed"],
    );
    assert!(diff.stdout.contains(line.trim_end()), "{}", diff.text());
    let json = world.run("bundle diff old.tar new.tar --json");
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["changed"][0]["to"]["version"], "2");
    assert!(value["new_bytes"].as_u64().unwrap() > 0);
    // A manifest is of the bundle's bytes too; the file is the same.
    let with = |text: &str| format!("{later}[[manifests]]\nname = \"app\"\npath = \"{text}\"\n");
    world.write(
        "app.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: app}\n",
    );
    world.write("small.toml", &with("app.yaml"));
    world
        .run("bundle lock small.toml --cache again")
        .expect(0, &[]);
    world
        .run(&build.replace("new.tar", "app.tar"))
        .expect(0, &[]);
    let json = world.run("bundle diff new.tar app.tar --json");
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["added"][0]["name"], "app");
    assert!(value["new_bytes"].as_u64().unwrap() > 50, "{value}");
    let same = world.run("bundle diff new.tar new.tar");
    same.expect(0, &["0 changed, 0 added, 0 removed, 0 B of new blobs"]);
    assert_eq!(same.stdout, "");
}

/// A site adds to a definition of others, which it leaves as it is.
#[test]
fn a_definition_includes_another() {
    let world = world_with_bundle();
    let include = |name: &str| {
        format!(
            "schema = 1\ninclude = [\"{name}\"]\n[bundle]\nname = \"site\"\nversion = \"7\"\n\
             platforms = [\"linux/amd64\"]\n[[manifests]]\nname = \"app\"\npath = \"app.yaml\"\n"
        )
    };
    world.write("site.toml", &include("small.toml"));
    world.write(
        "app.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: app}\n",
    );
    world
        .run("bundle lock site.toml --cache cache")
        .expect(0, &[]);
    let build =
        "bundle build site.toml --cache cache --sign-key key --agent linux/amd64=agent -o site.tar";
    world.run(build).expect(0, &["site.tar: site 7"]);
    let json = world.run("bundle inspect site.tar --json");
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["files"][1]["name"], "tool");
    assert_eq!(value["manifests"][0]["name"], "app");

    let definition = world.read("small.toml");
    world.write("small.toml", &format!("{definition}# looked at\n"));
    world
        .run("bundle lock site.toml --check")
        .expect(2, &["site.lock is not of site.toml"]);
    world.write("small.toml", &format!("{definition}key = 1\n"));
    world
        .run("bundle lock site.toml")
        .expect(2, &["small.toml:", "unknown key `key`"]);
    world.write("site.toml", &include("nowhere.toml"));
    world
        .run("bundle lock site.toml")
        .expect(2, &["reading what site.toml includes", "nowhere.toml"]);
}

const KUBELET: &str = r#"
schema = 1
[bundle]
name = "small"
version = "1.0.0"
platforms = ["{platform}"]
[[files]]
name = "kubelet"
version = "1"
url = "file://{directory}/kubelet"
fields = "json"
"#;

/// Neither flags nor keys that a bundle says nothing of come as far as to a
/// host.
#[test]
fn overrides_are_held_against_the_bundle_before_any_host_is_asked() {
    let world = World::new();
    world.write("kubelet", "\0json:\"maxPods,omitempty\"\0json:\"kind\"");
    world.bundle_of("small", "linux/amd64", KUBELET);
    let inventory = world.read("inventory.toml");
    for (overrides, code, said) in [
        (
            "config = { maxPodz = 3 }",
            2,
            [
                "inventory.toml:17:12: `overrides.kubelet.config.maxPodz`: the configuration of this bundle's kubelet has no field `maxPodz`",
                "did you mean `maxPods`?",
            ],
        ),
        (
            "flags = { v = 2 }",
            2,
            [
                "inventory.toml:17:11: `overrides.kubelet.flags.v`: flags of kubelet can't be set: the bundle lists none for it",
                "leave them out",
            ],
        ),
        (
            "config = { maxPods = 3 }",
            4,
            ["connecting to m1", "check that m1 is up"],
        ),
    ] {
        let text = format!("{inventory}[overrides.kubelet]\n{overrides}\n");
        world.write("inventory.toml", &text);
        let outcome = world.run("plan --bundle small.tar --trusted-key key.pub");
        outcome.expect(code, &said);
    }
}

/// Issue 3's list. Neither `plan` nor `install` may come as far as to connect.
#[test]
fn bundles_that_are_not_right_are_refused_before_anything_else() {
    let world = world_with_bundle();
    world.keys("other");
    let good = fs_err::read(world.path.join("small.tar")).unwrap();
    let write = |name: &str, bytes: &[u8]| fs_err::write(world.path.join(name), bytes).unwrap();
    write("truncated.tar", &good[..good.len() / 2]);
    let compressed = good
        .windows(4)
        .position(|window| window == [0x28, 0xb5, 0x2f, 0xfd])
        .unwrap();
    let mut flipped = good.clone();
    flipped[compressed + 20] ^= 1;
    write("flipped.tar", &flipped);
    let mut unsigned = good.clone();
    let signature = good
        .windows(18)
        .position(|window| window == b"index.json.minisig")
        .unwrap();
    unsigned[signature] = b'x';
    write("renamed.tar", &unsigned);
    write("gzip.tar", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    write("empty.tar", b"");
    for (bundle, key, expected) in [
        ("truncated.tar", "key.pub", "truncated"),
        ("flipped.tar", "key.pub", "is damaged"),
        ("renamed.tar", "key.pub", "renamed.tar"),
        ("gzip.tar", "key.pub", "is not a cofferdam bundle"),
        ("inventory.toml", "key.pub", "is not a cofferdam bundle"),
        ("empty.tar", "key.pub", "empty.tar"),
        ("absent.tar", "key.pub", "absent.tar"),
        ("small.tar", "other.pub", "which is not trusted here"),
        ("small.tar", "inventory.toml", "inventory.toml"),
    ] {
        let verify = world.run(&format!("bundle verify {bundle} --trusted-key {key}"));
        verify.expect(2, &["error: ", expected]);
        for verb in ["plan", "install --yes"] {
            let run = world.run(&format!("{verb} --bundle {bundle} --trusted-key {key}"));
            run.expect(2, &["error: ", expected]);
            assert!(!run.stderr.contains("connecting"), "{}", run.text());
        }
    }
}

#[test]
fn an_unsigned_bundle_is_refused() {
    let world = world_with_bundle();
    let good = fs_err::read(world.path.join("small.tar")).unwrap();
    // The signature is the third entry: a header of 512 bytes and one block.
    let at = good
        .windows(18)
        .position(|window| window == b"index.json.minisig")
        .unwrap();
    let unsigned = [&good[..at], &good[at + 1024..]].concat();
    fs_err::write(world.path.join("unsigned.tar"), unsigned).unwrap();
    world
        .run("bundle verify unsigned.tar --trusted-key key.pub")
        .expect(2, &["not signed"]);
}

#[test]
fn definitions_and_flags_that_are_not_right_are_input_errors() {
    let world = world_with_bundle();
    for (line, expected) in [
        ("bundle lock absent.toml", "absent.toml"),
        ("bundle lock inventory.toml", "inventory.toml"),
        ("bundle lock small.toml --mirror nonsense", "PREFIX=URL"),
        (
            "bundle build small.toml --sign-key key --agent amd64 -o b.tar",
            "PLATFORM=FILE",
        ),
        (
            "bundle build small.toml --sign-key key.pub -o b.tar",
            "key.pub",
        ),
        (
            "bundle keygen --secret-key k --public-key k.pub",
            "--no-password",
        ),
    ] {
        let outcome = world.run(line);
        outcome.expect(2, &[expected]);
        assert!(!world.exists("b.tar"));
    }
    let before = world.read("key");
    let again = world.run("bundle keygen --no-password --secret-key key --public-key key.pub");
    assert_ne!(again.code, 0, "{}", again.text());
    assert_eq!(world.read("key"), before, "a key was overwritten");
}
