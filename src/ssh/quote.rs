//! Quoting of words for a POSIX shell.

/// Quotes one word so that `sh` takes it as exactly this text.
///
/// Words of letters, digits and a few harmless signs stay as they are, so that
/// commands in messages are pleasant to read. A NUL can't be part of any
/// command line; callers must not pass one.
pub fn sh_quote(word: &str) -> String {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(harmless) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::sh_quote;
    use proptest::prelude::*;
    use std::process::Command;

    #[test]
    fn quotes_only_what_needs_it() {
        let cases = [
            ("", "''"),
            ("/opt/cofferdam/agent", "/opt/cofferdam/agent"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("~root", "'~root'"),
            ("A=b", "'A=b'"),
            ("*", "'*'"),
            ("line\nline", "'line\nline'"),
            ("-rf", "-rf"),
        ];
        for (word, expected) in cases {
            assert_eq!(sh_quote(word), expected, "quoting {word:?}");
        }
    }

    /// Runs a shell that prints its words, each followed by a NUL.
    fn through_shell(words: &[String]) -> Vec<u8> {
        let quoted: Vec<String> = words.iter().map(|word| sh_quote(word)).collect();
        Command::new("sh")
            .arg("-c")
            .arg(format!("printf '%s\\0' {}", quoted.join(" ")))
            .output()
            .unwrap()
            .stdout
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn round_trips_through_a_shell(
            words in proptest::collection::vec("[^\0]{0,24}|[ -~\n\t]{0,24}|['\"\\\\$`!*~ ]{0,8}", 1..8)
        ) {
            let mut expected = Vec::new();
            for word in &words {
                expected.extend_from_slice(word.as_bytes());
                expected.push(0);
            }
            prop_assert_eq!(through_shell(&words), expected);
        }
    }
}
