//! Zones that are cut off: who still reaches whom, and when they heal.

use super::world::World;

/// How long the run keeps a silent connection, in moments of the model: some
/// starts of a process, as the real one outlives a few seconds of silence.
const SILENCE_TICKS: u64 = 40;

/// A zone that is cut off from all others, and from the jump host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    since: u64,
    heals: Heals,
}

/// When a zone that is cut off is whole again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heals {
    /// At a moment, whatever goes on then.
    At(u64),
    /// When the next run looks.
    WithTheNextRun,
    /// When a test says so.
    WhenTold,
}

/// The run's connection to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Up,
    /// Nothing is heard of the host yet, whose agent goes on meanwhile.
    Silent,
    Gone,
}

impl World {
    /// Whether what one host sends arrives at another: within a zone always,
    /// between two while neither is cut off. What a host's state owes to
    /// another host is asked through this.
    pub(super) fn reaches(&self, from: &str, to: &str) -> bool {
        self.cut.is_empty()
            || self.zone_of(from) == self.zone_of(to)
            || !self.is_cut(from) && !self.is_cut(to)
    }

    pub(super) fn zone_of(&self, host: &str) -> Option<&str> {
        let machine = self.machines.get(host)?;
        Some(&machine.options.zone)
    }

    fn is_cut(&self, host: &str) -> bool {
        self.cut_of(host).is_some()
    }

    fn cut_of(&self, host: &str) -> Option<&Cut> {
        self.cut.get(self.zone_of(host)?)
    }

    /// Cuts a zone off.
    pub(super) fn cut_zone(&mut self, zone: &str, heals: Heals) {
        let since = self.now;
        self.cut.insert(zone.to_owned(), Cut { since, heals });
    }

    /// Makes zones whole again.
    pub(super) fn heal(&mut self, is_due: impl Fn(&str, Heals) -> bool) {
        let is_due = |zone: &String, cut: &Cut| is_due(zone, cut.heals);
        if !self.cut.iter().any(|(zone, cut)| is_due(zone, cut)) {
            return;
        }
        let hosts = self.machines.keys();
        let given_up = hosts.filter(|host| self.is_cut(host) && self.link(host) == Link::Gone);
        let given_up: Vec<String> = given_up.cloned().collect();
        self.given_up.extend(given_up);
        self.cut.retain(|zone, cut| !is_due(zone, cut));
        self.unsettle();
    }

    /// The next moment, in which a zone may heal.
    pub(super) fn advance(&mut self) {
        self.now += 1;
        let now = self.now;
        self.heal(|_, heals| matches!(heals, Heals::At(moment) if moment <= now));
    }

    /// How the run's connection to a host is. One that was silent for too long
    /// stays given up.
    pub(super) fn link(&self, host: &str) -> Link {
        let gone = [&self.lost, &self.off, &self.given_up];
        if self.run_is_dead || gone.iter().any(|gone| gone.contains(host)) {
            return Link::Gone;
        }
        match self.cut_of(host) {
            None => Link::Up,
            Some(cut) if !matches!(cut.heals, Heals::At(_)) => Link::Gone,
            Some(cut) if self.now > cut.since + SILENCE_TICKS => Link::Gone,
            Some(_) => Link::Silent,
        }
    }
}
