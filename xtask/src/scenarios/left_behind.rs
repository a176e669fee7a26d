//! A node that is off while the others are upgraded.

use super::Context;
use super::upgrade::{KUBELETS, NEXT};
use super::zones::all_well;
use crate::product::{Outcome, Product, outcome};
use crate::shell;
use anyhow::{Result, ensure};

/// The last of two workers in its zone.
const OFF: &str = "w4";

/// Nobody waits for a node that is off: the others go on without it, and the next
/// upgrade takes it along.
pub fn goes_on_and_takes_it_along(context: &Context) -> Result<()> {
    let (lab, next) = (context.lab()?, Product::for_lab(NEXT)?);
    lab.kill(OFF)?;
    let all = ["--no-soak", "--yes"];
    let without = ["--no-soak", "--without", OFF, "--yes"];
    says(&next.outcome_of("upgrade", &all)?, 4, &["--without w4"])?;
    let done = next.outcome_of("upgrade", &without)?;
    says(
        &done,
        0,
        &["lab, but for w4, runs", "once w4 can be reached"],
    )?;
    ensure!(
        versions(&next)? == ["36", "37", "37", "37", "37"],
        "kubelets are of {:?}",
        versions(&next)?
    );
    let again = next.outcome_of("install", &["--without", OFF, "--yes"])?;
    says(&again, 0, &["nothing to do"])?;

    lab.boot(OFF)?;
    let refused = next.outcome_of("install", &["--yes"])?;
    says(
        &refused,
        3,
        &["w4: it has", "`cofferdam upgrade` changes versions"],
    )?;
    shell::run(&mut next.verb("upgrade", &all))?;
    ensure!(
        versions(&next)? == ["37"; 5],
        "kubelets are of {:?}",
        versions(&next)?
    );
    all_well(&next).map(drop)
}

/// The minors of all kubelets, sorted.
fn versions(product: &Product) -> Result<Vec<String>> {
    let kubelets = product.kubectl(&KUBELETS)?;
    let minors = kubelets
        .split(' ')
        .filter_map(|version| version.split('.').nth(1));
    let mut minors: Vec<String> = minors.map(str::to_owned).collect();
    minors.sort();
    Ok(minors)
}

impl Product {
    fn outcome_of(&self, verb: &str, more: &[&str]) -> Result<Outcome> {
        outcome(&mut self.verb(verb, more))
    }
}

fn says(outcome: &Outcome, status: i32, parts: &[&str]) -> Result<()> {
    let missing: Vec<&&str> = parts
        .iter()
        .filter(|part| !outcome.stderr.contains(**part))
        .collect();
    ensure!(
        outcome.status == status && missing.is_empty(),
        "exit {}, {missing:?} is missing\n{}",
        outcome.status,
        outcome.stderr
    );
    Ok(())
}
