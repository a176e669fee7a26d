//! Help texts, completions, and the exit codes of wrong usage.

use crate::world::run;

/// Every command that people type.
const COMMANDS: [&str; 20] = [
    "",
    "bundle",
    "bundle keygen",
    "bundle lock",
    "bundle build",
    "bundle verify",
    "bundle inspect",
    "hosts",
    "hosts trust",
    "install",
    "upgrade",
    "rollback",
    "status",
    "etcd",
    "etcd snapshot",
    "etcd snapshots",
    "etcd restore",
    "plan",
    "ports",
    "kubectl",
];

#[test]
fn the_first_help_tells_verbs_and_exit_codes() {
    let help = run("--help");
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    insta::assert_snapshot!(help.stdout, @r"
    Installs and keeps Kubernetes behind closed firewalls from one signed bundle

    Usage: cofferdam [OPTIONS] <COMMAND>

    Commands:
      bundle       Make, check and show bundles
      hosts        Look after the hosts' SSH keys
      install      Make hosts and cluster as inventory and bundle say
      upgrade      Bring a running cluster to a bundle's versions, host by host
      rollback     Go back from a new minor that soaks, from what hosts keep
      plan         Show what install would do; changes nothing but the hosts' agent
      status       Show how the cluster stands, zone by zone
      ports        Print the ports that firewalls between zones must let pass
      registry     Fill registries that are not cofferdam's own
      site         Tell what the site has
      kubectl      Run the cluster's kubectl on a master
      etcdctl      Run etcdctl on a master
      etcd         Save snapshots of etcd, and begin it anew from one
      completions  Print a shell's completions
      help         Print this message or the help of the given subcommand(s)

    Options:
      -q, --quiet         Print failures only
      -v, --verbose       Show lines of hosts' logs and every wait too
          --no-progress   Print plain lines even on a terminal
          --color <WHEN>  Color text for people; `auto` does on a terminal without
                          NO_COLOR [default: auto] [possible values: auto, always,
                          never]
      -h, --help          Print help
      -V, --version       Print version

    Exit codes:
      0    done, or nothing to do
      1    it failed; the same command goes on from where it stopped
      2    wrong usage, or an inventory, bundle or site that can't be used
      3    checks of the hosts refused the run; nothing was changed
      4    hosts can't be reached or trusted
      130  interrupted, or a question was not answered with yes

    Text for people goes to stderr, data to stdout. With JSON asked for, a failure
    is one object there too, whose `event` is `run-failed`. `kubectl` and `etcdctl`
    exit with the program's own code.
    ");
}

#[test]
fn help_of_every_command_fits_a_terminal_and_explains_every_argument() {
    for command in COMMANDS.iter().chain(&["etcdctl", "completions"]) {
        let help = run(&format!("{command} --help"));
        assert_eq!(help.code, 0, "{}", help.text());
        let lines: Vec<&str> = help.stdout.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            assert!(line.chars().count() <= 80, "{command}: {line}");
            let is_argument = line.starts_with("  -")
                || line.starts_with("      --")
                || line.starts_with("  <")
                || line.starts_with("  [");
            let words = line
                .trim()
                .split("  ")
                .filter(|word| !word.is_empty())
                .count();
            let goes_on = lines
                .get(index + 1)
                .is_some_and(|next| next.starts_with("          "));
            assert!(
                !is_argument || words > 1 || goes_on,
                "{command}: {line} says nothing"
            );
        }
    }
}

#[test]
fn what_programs_call_is_not_shown_to_people() {
    let help = run("--help").stdout;
    for hidden in ["agent", "api-proxy", "route"] {
        let shown = help
            .lines()
            .any(|line| line.trim_start().starts_with(hidden));
        assert!(!shown, "{hidden} is shown");
        assert_eq!(run(&format!("{hidden} --help")).code, 0, "{hidden}");
    }
}

#[test]
fn wrong_usage_ends_with_two() {
    for line in [
        "",
        "instal",
        "install",
        "install --bundle b.tar",
        "plan --bundle",
        "ports --format yaml",
        "ports --quiet --verbose",
        "kubectl get nodes",
        "hosts trust --yes --fingerprints f",
        "bundle build d.toml -o b.tar",
        "--color sometimes ports",
        "agent-install none",
    ] {
        let outcome = run(line);
        assert_eq!(outcome.code, 2, "{line}: {}", outcome.text());
        assert_eq!(outcome.stdout, "", "{line}");
        assert!(!outcome.stderr.is_empty(), "{line}");
    }
}

#[test]
fn every_shell_completes_and_versions_are_told() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&format!("completions {shell}"));
        assert_eq!(script.code, 0, "{}", script.text());
        assert!(script.stdout.contains("kubectl"), "{shell}");
    }
    let version = run("--version");
    assert_eq!(
        version.stdout,
        format!("cofferdam {}\n", env!("CARGO_PKG_VERSION"))
    );
}
