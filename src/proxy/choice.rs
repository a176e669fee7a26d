//! Which API server a new connection goes to: a pure function.

/// What is known of an API server, best first: the order of these variants is
/// the order in which servers are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// Its `/readyz` said so.
    Ready,
    /// Not probed yet.
    Unknown,
    /// It answered, but not that it is ready.
    NotReady,
    /// It could not be connected to.
    Unreachable,
}

/// One API server as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What the last probe or dial told.
    pub readiness: Readiness,
    /// Whether it is in the zone of this node.
    pub same_zone: bool,
    /// Connections of this proxy that it has now, dials included.
    pub connections: usize,
}

/// The order in which to dial, as indices into `candidates`; always all of
/// them, since a server that seems dead is still better than none.
///
/// Ready ones come first, among those the ones of the own zone, then those
/// with the fewest connections; `rotation` (any number that grows) turns the
/// order of those that are equal in all this.
pub fn order_of_dials(candidates: &[Candidate], rotation: usize) -> Vec<usize> {
    let count = candidates.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&index| {
        let candidate = &candidates[index];
        let turn = (index + count - rotation % count) % count;
        (
            candidate.readiness,
            !candidate.same_zone,
            candidate.connections,
            turn,
        )
    });
    order
}

#[cfg(test)]
mod tests {
    use super::Readiness::{NotReady, Ready, Unknown, Unreachable};
    use super::*;

    fn candidate(readiness: Readiness, same_zone: bool, connections: usize) -> Candidate {
        Candidate {
            readiness,
            same_zone,
            connections,
        }
    }

    #[test]
    fn orders_by_readiness_then_zone_then_load() {
        let cases: [(&str, Vec<Candidate>, Vec<usize>); 8] = [
            ("none", vec![], vec![]),
            (
                "one that is dead",
                vec![candidate(Unreachable, true, 0)],
                vec![0],
            ),
            (
                "the own zone first",
                vec![
                    candidate(Ready, false, 0),
                    candidate(Ready, true, 9),
                    candidate(Ready, false, 0),
                ],
                vec![1, 0, 2],
            ),
            (
                "readiness before the zone",
                vec![candidate(NotReady, true, 0), candidate(Ready, false, 50)],
                vec![1, 0],
            ),
            (
                "an unprobed one before one that is known not to be ready",
                vec![candidate(NotReady, true, 0), candidate(Unknown, false, 0)],
                vec![1, 0],
            ),
            (
                "one that answers before one that does not",
                vec![
                    candidate(Unreachable, true, 0),
                    candidate(NotReady, false, 0),
                ],
                vec![1, 0],
            ),
            (
                "the fewest connections within a zone",
                vec![
                    candidate(Ready, true, 3),
                    candidate(Ready, true, 1),
                    candidate(Ready, true, 2),
                ],
                vec![1, 2, 0],
            ),
            (
                "nobody is ready: the own zone, then the others",
                vec![
                    candidate(NotReady, false, 0),
                    candidate(NotReady, true, 4),
                    candidate(Unreachable, false, 0),
                ],
                vec![1, 0, 2],
            ),
        ];
        for (name, candidates, expected) in cases {
            assert_eq!(order_of_dials(&candidates, 0), expected, "{name}");
        }
    }

    #[test]
    fn equal_servers_take_turns() {
        let candidates = [candidate(Ready, true, 0); 3];
        let first: Vec<usize> = (0..6)
            .map(|turn| order_of_dials(&candidates, turn)[0])
            .collect();
        assert_eq!(first, [0, 1, 2, 0, 1, 2]);
        assert_eq!(order_of_dials(&candidates, usize::MAX).len(), 3);
    }
}
