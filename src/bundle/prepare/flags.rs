//! Lists of flags, read off programs' own help.

use crate::bundle::cache::{Cache, RecordKind};
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use camino::Utf8Path;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How long a program may take to print its help. They take well under a second.
const HELP_TIMEOUT: Duration = Duration::from_secs(30);
/// Tries to start a program that "is busy": a process that another thread just forked
/// may hold the file open for writing for a moment.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

fn record_kind() -> RecordKind {
    RecordKind("flags-1".to_owned())
}

/// The list that was read off a program earlier.
pub fn flags_before(cache: &Cache, digest: &Digest) -> Option<Vec<String>> {
    cache.record(&record_kind(), digest)
}

/// Runs a program of the cache with `--help` and reads its flags. The program must be
/// for this machine. It runs with an empty environment and directory.
pub async fn read_flags(cache: &Cache, digest: &Digest, name: &str) -> Result<Vec<String>> {
    if let Some(flags) = flags_before(cache, digest) {
        return Ok(flags);
    }
    let help = run_help(cache, digest, name)
        .await
        .with_context(|| format!("reading flags of {name}"))?;
    let flags = parse_flags(&help);
    if flags.is_empty() {
        bail!("reading flags of {name}: its --help lists none; leave out `flags = true`");
    }
    cache.put_record(&record_kind(), digest, &flags)?;
    Ok(flags)
}

async fn run_help(cache: &Cache, digest: &Digest, name: &str) -> Result<String> {
    let guard = cache.temporary_directory()?;
    let directory = Utf8Path::from_path(guard.path()).context("the cache's path is not UTF-8")?;
    let program = directory.join(name);
    // A link, not a copy: a file that was just written may be busy.
    fs_err::hard_link(cache.blob_path(digest), &program)?;
    fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let mut tries = 1;
    let child = loop {
        let spawned = Command::new(&program)
            .arg("--help")
            .env_clear()
            .env("HOME", directory)
            .env("PATH", "/usr/bin:/bin")
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        match spawned {
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES =>
            {
                tries += 1;
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            other => {
                break other.with_context(|| {
                    format!("running {program} --help (the cache must not be mounted noexec)")
                })?;
            }
        }
    };
    let output = tokio::time::timeout(HELP_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| anyhow!("it did not end within {} s", HELP_TIMEOUT.as_secs()))??;
    // Go's flag package prints help to stderr and exits with 2.
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push('\n');
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// Reads names of flags from a help text: lines that begin with one. Understands
/// pflag (`-v, --v Level`), Go's flag package (`-name type`) and etcd's
/// (`--name 'default'`). Names come without dashes, sorted; a letter that is short for
/// a longer name is left out.
pub fn parse_flags(help: &str) -> Vec<String> {
    let mut flags = BTreeSet::new();
    for line in help.lines() {
        let mut long = Vec::new();
        let mut single = Vec::new();
        let mut rest = line.trim();
        while let Some((name, dashes, after)) = leading_flag(rest) {
            if dashes == 2 {
                long.push(name)
            } else {
                single.push(name)
            }
            // `--config value, -c value`: the placeholder is one word.
            let next = after
                .split_once(", -")
                .filter(|(between, _)| !between.trim().contains(' '));
            let Some((between, _)) = next else { break };
            rest = &after[between.len() + 2..];
        }
        let names = if long.is_empty() { single } else { long };
        flags.extend(names.into_iter().map(str::to_owned));
    }
    flags.into_iter().collect()
}

/// The flag at the start of a text: its name, its number of dashes, and what follows.
fn leading_flag(text: &str) -> Option<(&str, usize, &str)> {
    let stripped = text.trim_start_matches('-');
    let dashes = text.len() - stripped.len();
    let fits = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let end = stripped
        .find(|character| !fits(character))
        .unwrap_or(stripped.len());
    let (name, after) = stripped.split_at(end);
    let starts_well = name.starts_with(|character: char| character.is_ascii_alphabetic());
    let ends_well = name.ends_with(|character: char| character.is_ascii_alphanumeric());
    let followed_well = after.is_empty() || after.starts_with([' ', '=', ',', '\t', '[', '"']);
    (matches!(dashes, 1 | 2) && starts_well && ends_well && followed_well)
        .then_some((name, dashes, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::testing::TestDirectory;

    #[test]
    fn reads_the_kinds_of_help_in_use() {
        let cases: [(&str, &str, &[&str]); 7] = [
            (
                "pflag",
                "Usage:\n  kubelet [flags]\n\nFlags:\n      --address ip      The IP\n  -h, --help  help\n  -v, --v Level   number\n      --feature-gates mapStringBool   A set\n                APIListChunking=true|false\n                --not a flag but prose -- of it\n",
                &["address", "feature-gates", "help", "not", "v"],
            ),
            (
                "go flag",
                "Usage of flanneld:\n  -etcd-prefix string\n    \tetcd prefix (default \"/x\")\n  -v value\n    \tlog level\n  -iface-can-reach string\n",
                &["etcd-prefix", "iface-can-reach", "v"],
            ),
            (
                "etcd",
                "Member:\n  --name 'default'\n    Human-readable name.\n  --client-cert-auth 'false'\n  --experimental-x=true\n  -h | --help\n",
                &["client-cert-auth", "experimental-x", "h", "name"],
            ),
            (
                "urfave",
                "OPTIONS:\n   --config value, -c value  Path\n   --log-level value, -l value\n   --version, -v\n",
                &["config", "log-level", "version"],
            ),
            (
                "wrapped",
                "  --duration duration[=1h]  x\n  --list stringArray,x\n",
                &["duration", "list"],
            ),
            (
                "prose",
                "- a list\n-- dashes\n-1 is a number\n---x\n(--in-brackets)\n",
                &[],
            ),
            ("words", "--ends-with- x\n--semi;colon\n", &[]),
        ];
        for (name, help, expected) in cases {
            assert_eq!(parse_flags(help), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn runs_a_program_for_its_help() {
        let directory = TestDirectory::new();
        let cache = Cache::open(&directory.path).unwrap();
        let script = "#!/bin/sh\necho \"  --from-stdout x\"\necho '  --to-stderr' >&2\nexit 2\n";
        let digest = cache.put(script.as_bytes()).unwrap();
        let flags = read_flags(&cache, &digest, "tool").await.unwrap();
        assert_eq!(flags, ["from-stdout", "to-stderr"]);
        assert_eq!(flags_before(&cache, &digest), Some(flags));
        let silent = cache.put(b"#!/bin/sh\nexit 0\n").unwrap();
        let error = read_flags(&cache, &silent, "silent")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("lists none"), "{error}");
    }
}
