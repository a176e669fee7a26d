//! Bundles on their way: in parts, as deltas, signed elsewhere, and looked into by a
//! security officer.

use crate::world::World;
use std::process::Command;

const BUILD: &str = "bundle build small.toml --cache again --agent linux/amd64=agent";

fn world_with_bundle() -> World {
    let world = World::new();
    world.bundle("small", "linux/amd64");
    world
}

fn bytes(world: &World, name: &str) -> Vec<u8> {
    fs_err::read(world.path.join(name)).unwrap()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// `--split N` with the least N, as the message tells it.
fn least(world: &World) -> String {
    let small = world.run("bundle split small.tar --size 1000 -o x.tar");
    small.expect(
        2,
        &["parts of 1000 bytes are too small", "ask for parts of "],
    );
    let (_, rest) = small.stderr.split_once("ask for parts of ").unwrap();
    rest.split(' ').next().unwrap().to_owned()
}

#[test]
fn parts_are_carried_apart_and_put_together_again() {
    let world = world_with_bundle();
    let least = least(&world);
    let split = world.run(&format!("bundle split small.tar --size {least} -o x.tar"));
    split.expect(0, &["x.part1of", "x.tar.sha256"]);
    let sums = world.read("x.tar.sha256");
    let names: Vec<&str> = sums
        .lines()
        .map(|line| line.split("  ").nth(1).unwrap())
        .collect();
    assert!(names.len() > 1, "{sums}");
    let check = Command::new("sha256sum")
        .args(["-c", "--quiet", "x.tar.sha256"])
        .current_dir(&world.path)
        .status();
    assert!(check.unwrap().success());

    fs_err::create_dir(world.path.join("stick")).unwrap();
    let moved = format!("stick/{}", names[1]);
    fs_err::rename(world.path.join(names[1]), world.path.join(&moved)).unwrap();
    let verify = format!("bundle verify {} --trusted-key key.pub", names[0]);
    let count = names.len();
    let missing = format!("is part 1 of {count}; missing: 2");
    world.run(&verify).expect(2, &[&missing, "with --parts"]);
    let plan = format!("plan --bundle {} --trusted-key key.pub", names[0]);
    world.run(&plan).expect(2, &[&missing]);
    let parts = format!("{count} parts, ");
    world
        .run(&format!("{verify} --parts stick"))
        .expect(0, &["small 1.0.0 is good: signed by", &parts]);
    // It comes as far as the host, which is not there.
    world
        .run(&format!("{plan} --parts stick"))
        .expect(4, &["connecting to m1"]);
    let inspect = world.run(&format!("bundle inspect {moved} --parts ."));
    assert!(
        inspect.stdout.contains(&format!(" in {count} parts")),
        "{}",
        inspect.text()
    );

    let join = world.run(&format!("bundle split {moved} --parts . -o joined.tar"));
    join.expect(0, &["joined.tar"]);
    assert!(bytes(&world, "joined.tar") == bytes(&world, "small.tar"));
    // Built in parts at once, they are the same.
    let build = format!("{BUILD} --sign-key key --split {least} -o y.tar");
    world.run(&build).expect(0, &["y.part1of"]);
    for name in names.iter().filter(|name| **name != names[1]) {
        let built = name.replacen('x', "y", 1);
        assert!(bytes(&world, &built) == bytes(&world, name), "{name}");
    }
}

#[test]
fn a_delta_holds_what_is_new_and_needs_the_rest() {
    let world = world_with_bundle();
    fs_err::rename(world.path.join("small.tar"), world.path.join("old.tar")).unwrap();
    let definition = world.read("small.toml");
    let later = definition.replacen("version = \"1.0.0\"", "version = \"1.0.1\"", 1);
    world.write(
        "small.toml",
        &later.replace("version = \"1\"", "version = \"2\""),
    );
    world.write("tool", &"a better tool, ".repeat(200));
    world
        .run("bundle lock small.toml --cache again")
        .expect(0, &[]);
    world
        .run(&format!("{BUILD} --sign-key key -o full.tar"))
        .expect(0, &[]);
    let delta = world.run(&format!(
        "{BUILD} --sign-key key --base old.tar -o delta.tar"
    ));
    delta.expect(0, &["a delta: 1 blob of"]);
    let verify = "bundle verify delta.tar --trusted-key key.pub";
    world
        .run(verify)
        .expect(0, &["is good", "it is a delta: 1 blob, "]);
    let found = world.run(&format!("{verify} --json"));
    assert_eq!(json(&found.stdout)["left_out"]["blobs"], 1);
    let found = world.run(&format!("{verify} --json --base old.tar"));
    assert_eq!(json(&found.stdout)["left_out"]["blobs"], 0);
    // With its base it is the whole bundle.
    world
        .run("bundle verify delta.tar --base old.tar --trusted-key key.pub")
        .expect(0, &["is good"]);
    let whole = "bundle split delta.tar --base old.tar -o whole.tar";
    world.run(whole).expect(0, &[]);
    assert!(bytes(&world, "whole.tar") == bytes(&world, "full.tar"));
    let shown = world.run("bundle inspect delta.tar");
    assert!(
        shown.stdout.contains("(a delta without 1 blob,"),
        "{}",
        shown.text()
    );

    // What a site says that it has, and files that are no such thing.
    let agent = json(&world.run("bundle inspect full.tar --json").stdout);
    assert_eq!(agent["files"][0]["name"], "cofferdam");
    world.write("have.json", "{\"schema\": 1, \"blobs\": 3}");
    for (have, expected) in [
        ("have.json", "have.json"),
        ("absent.json", "absent.json"),
        ("small.toml", "cofferdam site have"),
    ] {
        let build = format!("{BUILD} --sign-key key --have {have} -o x.tar");
        world.run(&build).expect(2, &[expected]);
        assert!(!world.exists("x.tar"));
    }
}

#[test]
fn a_bundle_is_built_here_and_signed_there() {
    let world = world_with_bundle();
    let unsigned = world.run(&format!("{BUILD} --unsigned -o unsigned.tar"));
    unsigned.expect(0, &["not signed"]);
    let refused = world.run("plan --bundle unsigned.tar --trusted-key key.pub");
    refused.expect(2, &["unsigned.tar is not signed"]);
    let allowed = "plan --bundle unsigned.tar --allow-unsigned";
    let allowed = world.run(allowed);
    let digest =
        json(&world.run("bundle inspect unsigned.tar --json").stdout)["index_digest"].clone();
    let told = format!(
        "unsigned.tar is not signed; it is taken since --allow-unsigned was given: {}",
        digest.as_str().unwrap()
    );
    allowed.expect(4, &[&told]);

    let sign = world.run("bundle sign unsigned.tar --sign-key key -o signed.tar");
    sign.expect(0, &["signed.tar", "signed by"]);
    assert!(bytes(&world, "signed.tar") == bytes(&world, "small.tar"));
    // Another key's comes beside it, or in its place.
    world.keys("other");
    let add = "bundle sign signed.tar --sign-key other --add -o both.tar";
    world.run(add).expect(0, &[]);
    let replace = "bundle sign signed.tar --sign-key other -o other.tar";
    world.run(replace).expect(0, &[]);
    for (bundle, key, code) in [
        ("both.tar", "key.pub", 0),
        ("both.tar", "other.pub", 0),
        ("other.tar", "key.pub", 2),
        ("other.tar", "other.pub", 0),
    ] {
        let verify = world.run(&format!("bundle verify {bundle} --trusted-key {key}"));
        verify.expect(code, &[]);
    }
    let shown = json(&world.run("bundle inspect both.tar --json").stdout);
    assert_eq!(shown["signed_by"].as_array().unwrap().len(), 2);
    // Parts, each with the largest blob that fits it.
    let build = format!("{BUILD} --unsigned --split {} -o p.tar", least(&world));
    let parts = world.run(&build);
    parts.expect(0, &["p.part1of", "their digests in p.tar.sha256"]);
    let first = parts.stderr.split(':').next().unwrap().to_owned();
    let first = first.lines().last().unwrap();
    world
        .run(&format!("bundle sign {first} --sign-key key -o q.tar"))
        .expect(0, &["q.part1of"]);
    let signed = first.replacen('p', "q", 1);
    world
        .run(&format!("bundle verify {signed} --trusted-key key.pub"))
        .expect(0, &["is good"]);
    world
        .run("bundle sign absent.tar --sign-key key -o x.tar")
        .expect(2, &["absent.tar"]);
    world
        .run("bundle sign small.tar --sign-key key.pub -o x.tar")
        .expect(2, &["key.pub"]);
    assert!(!world.exists("x.tar"));
}

/// An inventory says whose bundles it takes, by keys that people can name.
#[test]
fn the_inventory_names_the_keys_that_it_trusts() {
    let world = world_with_bundle();
    let inventory = world.read("inventory.toml");
    world
        .run("plan --bundle small.tar")
        .expect(2, &["no key is trusted", "trusted_keys"]);
    let public = world.read("key.pub");
    let key = public.lines().nth(1).unwrap();
    let with = |more: &str| {
        let text = format!("{inventory}[[trusted_keys]]\nkey = \"{key}\"\n{more}");
        world.write("inventory.toml", &text);
        world.run("plan --bundle small.tar")
    };
    let shown = json(&world.run("bundle inspect small.tar --json").stdout);
    let id = shown["signed_by"][0].as_str().unwrap();
    let comment = format!("id = \"{id}\"\ncomment = \"release key of 2026\"\n");
    let told = format!("signed by {id} (release key of 2026)");
    with(&comment).expect(4, &[&told, "connecting to m1"]);
    with("id = \"0123456789ABCDEF\"\n").expect(
        2,
        &[
            "inventory.toml:18:6: `trusted_keys[0].id`: the key beside it has the id",
            "ask whose key it is",
        ],
    );
    with(&format!("[[trusted_keys]]\nkey = \"{key}\"\n")).expect(2, &["is there twice"]);
    with("[[trusted_keys]]\nkey = \"RWnonsense\"\n").expect(
        2,
        &["`trusted_keys[1].key`: `RWnonsense` is no minisign public key"],
    );
    // The next key, before the old one goes.
    world.keys("next");
    let sign = "bundle sign small.tar --sign-key next -o next.tar";
    world.run(sign).expect(0, &[]);
    with("");
    world
        .run("plan --bundle next.tar")
        .expect(2, &["which is not trusted here"]);
    world
        .run("plan --bundle next.tar --trusted-key next.pub")
        .expect(4, &["connecting to m1"]);
}

#[test]
fn what_a_bundle_consists_of_and_by_which_licences() {
    let world = world_with_bundle();
    let sbom = json(&world.run("bundle sbom small.tar").stdout);
    assert_eq!(sbom["bomFormat"], "CycloneDX");
    assert_eq!(sbom["metadata"]["component"]["name"], "small");
    let names: Vec<&str> = sbom["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|component| component["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["cofferdam", "tool"]);
    assert_eq!(sbom["components"][1]["licenses"][0]["expression"], "MIT");
    let licences = world.run("bundle licenses small.tar");
    assert_eq!(licences.code, 0);
    let line = licences
        .stdout
        .lines()
        .find(|line| line.contains("tool"))
        .unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words, ["file", "tool", "1", "MIT"]);
    world
        .run("bundle sbom absent.tar")
        .expect(2, &["absent.tar"]);
}
