//! "Did you mean": the nearest of a list of known words.

/// The known word nearest to `word`, if it is near enough to have been meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong: `workr` is a worker, `etcd` is no `registry`. One may
    // be in short words too, but not their only one.
    let letters = word.chars().count();
    let limit = (letters / 3).max(1).min(letters.saturating_sub(1));
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?" if a known word is near, else "known are: a, b".
pub fn remedy(word: &str, known: &[&str], noun: &str) -> String {
    match nearest(word, known.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None if known.is_empty() => format!("there are no {noun}"),
        None => format!("known {noun}: {}", known.join(", ")),
    }
}

/// Number of letters to insert, delete, replace or swap with their neighbor (optimal string
/// alignment). Dashes, underscores and upper case don't count.
fn distance(left: &str, right: &str) -> usize {
    let left = letters(left);
    let right = letters(right);
    let mut rows = vec![(0..=right.len()).collect::<Vec<usize>>()];
    for (i, letter) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in right.iter().enumerate() {
            let cost = usize::from(letter != other);
            let mut best = (rows[i][j] + cost).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *letter == right[j - 1] && left[i - 1] == *other {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

fn letters(word: &str) -> Vec<char> {
    word.chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word() {
        let known = ["control-plane", "etcd", "registry", "worker"];
        let cases = [
            ("workr", Some("worker")),
            ("wokrer", Some("worker")),
            ("controlplane", Some("control-plane")),
            ("control_plane", Some("control-plane")),
            ("Etcd", Some("etcd")),
            ("master", None),
            ("", None),
            ("x", None),
            ("etdc", Some("etcd")),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(remedy("x", &[], "zones"), "there are no zones");
        assert_eq!(
            remedy("master", &["etcd", "worker"], "roles"),
            "known roles: etcd, worker"
        );
    }
}
