use super::*;

const GOOD: &str = r#"
schema = 1
[bundle]
name = "test"
version = "1.0.0"
platforms = ["linux/arm64", "linux/amd64"]

[[files]]
name = "runc"
version = "1.4.3"
url = "https://example.org/v{version}/runc.{arch}"
checksum = "{url}.sha256sum"
licence = "Apache-2.0"

[[files]]
name = "etcd"
version = "3.6.16"
url = "https://example.org/etcd-v{version}-{os}-{arch}.tar.gz"
member = "etcd-v{version}-{os}-{arch}/{name}"
flags = true
fields = "json"

[[images]]
name = "registry.k8s.io/pause"
tag = "3.10.2"

[[manifests]]
name = "dns"
path = "manifests/dns.yaml"
"#;

#[test]
fn reads_a_definition_in_sorted_order() {
    let definition = Definition::parse(GOOD, "bundles/test.toml".into()).unwrap();
    let platforms: Vec<String> = definition
        .platforms
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    let names: Vec<&str> = definition
        .files
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(names, ["etcd", "runc"]);
    assert!(definition.files[0].flags);
    assert_eq!(definition.files[0].fields, Some(FieldTag::Json));
    assert_eq!(definition.files[1].fields, None);
    assert_eq!(definition.files[0].checksum, None);
    assert_eq!(
        definition.images[0].reference(),
        "registry.k8s.io/pause:3.10.2"
    );
    let path = definition.manifest_path(&definition.manifests[0]);
    assert_eq!(path, "bundles/manifests/dns.yaml");
    assert_eq!(Definition::lock_path(&definition.path), "bundles/test.lock");
}

#[test]
fn each_problem_is_named_with_its_place() {
    let cases = [
        ("flags = true", "flag = true", ":20:1: unknown key `flag`"),
        (
            "\"json\"",
            "\"xml\"",
            ":21:10: `files.etcd.fields`: `xml` is no kind of tags",
        ),
        (
            "schema = 1",
            "schema = 2",
            ":2:10: `schema`: schema 2 is not known",
        ),
        ("version = \"1.0.0\"\n", "", ":3:1: missing key `version`"),
        ("\"1.0.0\"", "1", ":5:11: invalid type"),
        (
            "\"linux/arm64\", ",
            "\"linux/arm\", ",
            "`bundle.platforms`: `linux/arm` is not",
        ),
        (
            "\"linux/arm64\", ",
            "\"linux/amd64\", ",
            "`linux/amd64` is there twice",
        ),
        (
            "[\"linux/arm64\", \"linux/amd64\"]",
            "[]",
            "at least one platform",
        ),
        (
            "name = \"etcd\"",
            "name = \"runc\"",
            ":16:8: `files.runc.name`: `runc` is there twice",
        ),
        (
            "name = \"etcd\"",
            "name = \"../etcd\"",
            "`../etcd` is not a name",
        ),
        (
            "name = \"etcd\"",
            "name = \"cofferdam\"",
            "own binary is added",
        ),
        (
            "runc.{arch}",
            "runc.{architecture}",
            "`{architecture}` is not a known placeholder",
        ),
        (
            "runc.{arch}",
            "runc.{url}",
            "`{url}` is not a known placeholder",
        ),
        (
            "https://example.org/etcd",
            "ftp://example.org/etcd",
            "is not an address",
        ),
        ("\"3.6.16\"", "\"3.6 16\"", "`3.6 16` is not a version"),
        (
            "registry.k8s.io/pause",
            "pause",
            "is not an image's full name",
        ),
        ("3.10.2", "3:10", "`3:10` is not a tag"),
        (
            "manifests/dns.yaml",
            "../dns.yaml",
            "leaves the definition's directory",
        ),
        ("[[manifests]]", "[[manifest]]", "unknown key `manifest`"),
        ("name = \"dns\"", "name = ", ":28:8: "),
    ];
    for (from, to, expected) in cases {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let problems = Definition::parse(&text, "bundles/test.toml".into()).unwrap_err();
        let message = problems.to_string();
        assert!(message.contains(expected), "{expected}:\n{message}");
        assert!(message.contains("bundles/test.toml:"), "{message}");
    }
}

#[test]
fn all_problems_are_found_at_once() {
    let text = GOOD.replace("\"3.6.16\"", "\"\"").replace("3.10.2", "");
    let problems = Definition::parse(&text, "x.toml".into()).unwrap_err();
    assert_eq!(problems.problems.len(), 2, "{problems}");
}

#[test]
fn the_definitions_in_the_repository_are_valid() {
    let directory = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
    let mut seen = 0;
    for entry in directory.read_dir_utf8().unwrap() {
        let path = entry.unwrap().into_path();
        if path.extension() == Some("toml") {
            Definition::load(&path).unwrap();
            seen += 1;
        }
    }
    assert!(seen > 0);
}
