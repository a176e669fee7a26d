//! Bundles that were damaged on their way, and a disk that fills while one is built.

use super::random::Random;
use super::{Context, MINOR};
use crate::product::{Product, outcome, run_quietly};
use crate::{paths, shell, upstream};
use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How much is tried.
struct Extent {
    flips: u64,
    truncations: u64,
    /// Every so many of them is installed from too.
    installed: u64,
}

/// In a run by default.
pub fn some(context: &Context) -> Result<()> {
    damage(
        context,
        &Extent {
            flips: 40,
            truncations: 10,
            installed: 20,
        },
    )
}

pub fn two_thousand(context: &Context) -> Result<()> {
    damage(
        context,
        &Extent {
            flips: 2000,
            truncations: 200,
            installed: 100,
        },
    )
}

/// A bundle in the one or the other form.
struct Carried {
    product: Product,
    files: Vec<Utf8PathBuf>,
}

/// Single bytes are changed and files cut short, in a bundle and in parts of it: each
/// time `verify` says so, and no install begins.
fn damage(context: &Context, extent: &Extent) -> Result<()> {
    let mut random = Random::seeded()?;
    let directory = paths::lab()?.join("damaged");
    let forms = carried(context, &directory)?;
    for form in &forms {
        ensure!(is_good(&form.product)?, "it is not good to begin with");
    }
    let mut installs = 0;
    for number in 0..extent.flips + extent.truncations {
        let form = &forms[random.below(forms.len() as u64) as usize];
        let file = &form.files[random.below(form.files.len() as u64) as usize];
        let size = fs_err::metadata(file)?.len();
        let at = random.below(size);
        let opened = File::options().read(true).write(true).open(file)?;
        let (what, kept) = match number < extent.flips {
            true => {
                let by = 1 + random.below(255) as u8;
                let what = format!("{file}: byte {at} of {size} changed by {by:#04x}");
                (what, flip(&opened, at, by)?)
            }
            false => (
                format!("{file}: cut to {at} of {size} bytes"),
                cut(&opened, at)?,
            ),
        };
        ensure!(!is_good(&form.product)?, "{what}: taken for good");
        if number % extent.installed == 0 {
            reaches_no_host(context, &form.product).with_context(|| what.clone())?;
            installs += 1;
        }
        opened.write_all_at(&kept, at)?;
    }
    for form in &forms {
        ensure!(is_good(&form.product)?, "it is not good in the end");
    }
    shell::say(&format!(
        "        {} bytes flipped, {} times cut short: all found; {installs} installs reached no host",
        extent.flips, extent.truncations
    ));
    fs_err::remove_dir_all(&directory)?;
    Ok(())
}

/// Copies of the bundle: whole, and in parts.
fn carried(context: &Context, directory: &Utf8Path) -> Result<[Carried; 2]> {
    if directory.exists() {
        fs_err::remove_dir_all(directory)?;
    }
    fs_err::create_dir(directory)?;
    let product = |bundle: &Utf8Path| Product {
        bundle: bundle.to_owned(),
        ..context.product.clone()
    };
    let whole = directory.join("whole.tar");
    fs_err::copy(&context.product.bundle, &whole)?;
    let split = directory.join("split.tar");
    let mut command = context.product.command(&["bundle", "split"]);
    command.args([whole.as_str(), "--output", split.as_str(), "--size", "100M"]);
    run_quietly(&mut command)?;
    let mut parts = Vec::new();
    for entry in directory.read_dir_utf8()? {
        let path = entry?.into_path();
        if path.as_str().contains(".part") && path.extension() == Some("tar") {
            parts.push(path);
        }
    }
    parts.sort();
    let first = parts.first().context("no parts")?;
    Ok([
        Carried {
            product: product(&whole),
            files: vec![whole],
        },
        Carried {
            product: product(first),
            files: parts,
        },
    ])
}

/// Changes a byte, and returns what was there.
fn flip(file: &File, at: u64, by: u8) -> Result<Vec<u8>> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ by], at)?;
    Ok(byte.to_vec())
}

/// Cuts a file short, and returns the rest.
fn cut(file: &File, at: u64) -> Result<Vec<u8>> {
    let mut rest = vec![0; usize::try_from(file.metadata()?.len() - at)?];
    file.read_exact_at(&mut rest, at)?;
    file.set_len(at)?;
    Ok(rest)
}

fn is_good(product: &Product) -> Result<bool> {
    let mut command = product.command(&["bundle", "verify", product.bundle.as_str()]);
    command.args(["--trusted-key", product.public_key.as_str()]);
    let outcome = outcome(&mut command)?;
    ensure!(
        [0, 2].contains(&outcome.status),
        "verify ended with {}:\n{}",
        outcome.status,
        outcome.stderr
    );
    Ok(outcome.status == 0)
}

fn reaches_no_host(context: &Context, product: &Product) -> Result<()> {
    let outcome = outcome(&mut product.verb("install", &["--yes"]))?;
    ensure!(
        outcome.status == 2 && outcome.stderr.contains("/damaged/"),
        "install ended with {}:\n{}",
        outcome.status,
        outcome.stderr
    );
    let lab = context.lab()?;
    for host in lab.hosts() {
        lab.ssh(
            &host.name,
            "[ ! -e /opt/cofferdam ] && [ ! -e /etc/kubernetes ]",
        )
        .with_context(|| format!("{} was touched", host.name))?;
    }
    Ok(())
}

/// Somebody else fills the disk of the downloads: the build says so, and the same
/// command goes on once there is room, with what it has.
pub fn full_disk_during_a_build(context: &Context) -> Result<()> {
    let disk = Disk::mount(&paths::lab()?.join("small-disk"))?;
    let cache = disk.0.join("cache");
    let served = upstream::ensure(MINOR)?.serve()?;
    let product = &context.product;
    let output = paths::lab()?.join("from-small-disk.tar");
    let build = || -> Result<Command> {
        let mut command = product.build_command(MINOR)?;
        command.args(served.mirror_arguments());
        command.args(["--sign-key", paths::lab()?.join("bundle.key").as_str()]);
        command.args(["--cache", cache.as_str(), "--output", output.as_str()]);
        Ok(command)
    };
    let log = paths::lab()?.join("small-disk.log");
    let mut child = build()?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs_err::File::create(&log)?.into_parts().0)
        .spawn()?;
    let filler = disk.0.join("filler");
    let filled = fill_once_it_writes(&cache, &filler);
    if filled.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    filled?;
    let said = fs_err::read_to_string(&log)?;
    ensure!(
        !status.success() && said.contains("No space left on device"),
        "{status}:\n{said}"
    );
    let error: Vec<&str> = said.lines().filter(|line| line.contains("error")).collect();
    shell::say(&format!("        {}", error.join("\n        ")));
    ensure!(!output.exists(), "it left {output}");
    let before = files_in(&cache)?;
    fs_err::remove_file(&filler)?;
    run_quietly(&mut build()?)?;
    // What was whole was not fetched again.
    let after = files_in(&cache)?;
    let blobs = before
        .iter()
        .filter(|(path, _)| path.as_str().contains("/blobs/"));
    let blobs: Vec<_> = blobs.collect();
    ensure!(!blobs.is_empty(), "nothing was whole:\n{before:?}");
    for (path, file) in &blobs {
        ensure!(after.get(*path) == Some(*file), "{path} came again");
    }
    let same = fs_err::read(&output)? == fs_err::read(&product.bundle)?;
    ensure!(same, "its bytes differ from those of an undisturbed build");
    shell::say(&format!("        {} blobs were kept", blobs.len()));
    fs_err::remove_file(&output)?;
    Ok(())
}

/// A file system of its own, which ends with this.
struct Disk(Utf8PathBuf);

impl Disk {
    fn mount(place: &Utf8Path) -> Result<Self> {
        fs_err::create_dir_all(place)?;
        let disk = Self(place.to_owned());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2G", "tmpfs", place.as_str()]);
        shell::read(&mut mount)?;
        Ok(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is still in use goes with its last user.
        let _ = Command::new("umount")
            .args(["-l", self.0.as_str()])
            .status();
        let _ = fs_err::remove_dir(&self.0);
    }
}

/// Takes all the room once something has come.
fn fill_once_it_writes(cache: &Utf8Path, filler: &Utf8Path) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    const ENOUGH_BYTES: u64 = 100 << 20;
    let begun = Instant::now();
    loop {
        let files = files_in(cache).unwrap_or_default();
        let bytes: u64 = files.values().map(|file| file.1).sum();
        if bytes > ENOUGH_BYTES {
            break;
        }
        ensure!(begun.elapsed() < LIMIT, "nothing was written");
        std::thread::sleep(Duration::from_millis(10));
    }
    let fill = format!("cat /dev/zero > {filler} 2>/dev/null || true");
    shell::read(Command::new("sh").args(["-c", &fill])).map(drop)
}

/// Inode and size in bytes of all files below a directory.
fn files_in(directory: &Utf8Path) -> Result<BTreeMap<Utf8PathBuf, (u64, u64)>> {
    let mut files = BTreeMap::new();
    let mut queue = vec![directory.to_owned()];
    while let Some(path) = queue.pop() {
        for entry in path.read_dir_utf8()? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            match metadata.is_dir() {
                true => queue.push(entry.into_path()),
                false => {
                    files.insert(entry.into_path(), (metadata.ino(), metadata.len()));
                }
            }
        }
    }
    Ok(files)
}
