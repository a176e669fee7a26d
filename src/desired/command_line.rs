//! Command lines of components, as systemd reads them.

use std::collections::BTreeMap;

/// Flags of a component by name without dashes; an empty value makes
/// `--name=`.
pub type Flags = BTreeMap<String, String>;

/// Flags from pairs.
pub fn flags<const N: usize>(pairs: [(&str, String); N]) -> Flags {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The value of `ExecStart=`: the binary and one flag a line, in the order of
/// their names, quoted for systemd.
pub fn exec_start(binary: &str, flags: &Flags) -> String {
    let mut line = quote(&format!("{}/{binary}", crate::layout::BIN));
    for (name, value) in flags {
        line.push_str(" \\\n  ");
        line.push_str(&quote(&format!("--{name}={value}")));
    }
    line
}

/// Quotes one word for systemd's `ExecStart=`, where `%` and `$` expand.
/// Source: systemd.service(5), "Command lines".
pub fn quote(word: &str) -> String {
    let escaped = word.replace('%', "%%").replace('$', "$$");
    let plain = !escaped.is_empty()
        && escaped.chars().all(|character| {
            !character.is_whitespace() && !matches!(character, '"' | '\'' | '\\' | ';')
        });
    if plain {
        return escaped;
    }
    let inner = escaped
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
        .replace('\t', "\\t");
    format!("\"{inner}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_only_what_systemd_would_take_apart() {
        for (word, expected) in [
            ("--v=2", "--v=2"),
            ("--a=b c", "\"--a=b c\""),
            ("--tmpl=%h", "--tmpl=%%h"),
            ("--cost=$5", "--cost=$$5"),
            ("--q=\"x\"", "\"--q=\\\"x\\\"\""),
            ("", "\"\""),
            ("--list=a;b", "\"--list=a;b\""),
        ] {
            assert_eq!(quote(word), expected);
        }
    }

    #[test]
    fn gives_one_flag_a_line_in_order() {
        let line = exec_start(
            "etcd",
            &flags([("name", "m1".into()), ("data-dir", "/d".into())]),
        );
        assert_eq!(
            line,
            "/opt/cofferdam/bin/etcd \\\n  --data-dir=/d \\\n  --name=m1"
        );
    }
}
