use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refused(line: &str) -> String {
    Cli::try_parse_from(line.split_whitespace()).expect_err(line).to_string()
}

#[test]
fn the_command_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_agent_has_the_flags_that_others_rely_on() {
    let cli = parse(
        "stower agent --manifests /m --data-root /d --run-root /r --socket /s --config /c --node-name n \
         --storage-driver native --storage-opt a=1 --storage-opt b=2 --insecure-registry h:1 --insecure-registry h:2",
    );
    let Command::Agent(args) = cli.command else { panic!("{:?}", cli.command) };
    assert_eq!(cli.global.socket, Some("/s".into()));
    assert_eq!(args.manifests, Some("/m".into()));
    assert_eq!(args.data_root, Some("/d".into()));
    assert_eq!(args.run_root, Some("/r".into()));
    assert_eq!(args.config, Some("/c".into()));
    assert_eq!(args.node_name.as_deref(), Some("n"));
    assert_eq!(args.storage_driver.as_deref(), Some("native"));
    assert_eq!(args.storage_opt, ["a=1", "b=2"]);
    assert_eq!(args.insecure_registry, ["h:1", "h:2"]);
}

#[test]
fn global_flags_stand_before_and_after_the_verb() {
    for line in ["stower --socket /s -n x get", "stower get --socket /s -n x"] {
        let cli = parse(line);
        assert_eq!(
            (cli.global.socket, cli.global.namespace.as_deref()),
            (Some("/s".into()), Some("x")),
            "{line}"
        );
    }
    for verb in
        ["get", "describe x", "logs x", "stop x", "start x", "restart x", "events", "images", "rmi x", "plan"]
    {
        assert!(parse(&format!("stower {verb} --socket /s -A")).global.all_namespaces, "{verb}");
    }
    assert!(refused("stower get -A -n x").contains("cannot be used with"));
}

#[test]
fn get_takes_what_kubectl_get_takes() {
    let Command::Get(args) = parse("stower get ctr web db -o wide -l a=b --show-labels -w").command else {
        panic!()
    };
    assert_eq!(args.targets, ["ctr", "web", "db"]);
    assert_eq!(
        (args.output, args.selector.as_deref(), args.watch, args.show_labels),
        (Some(Output::Wide), Some("a=b"), true, true)
    );
    assert!(refused("stower get -o xml").contains("[possible values: wide, json, yaml, name]"));
}

#[test]
fn logs_take_what_kubectl_logs_takes() {
    let Command::Logs(args) = parse("stower logs web -f --since 10m --tail 5 --timestamps").command else {
        panic!()
    };
    assert_eq!(
        (args.follow, args.since.as_deref(), args.tail, args.timestamps),
        (true, Some("10m"), 5, true)
    );
    let Command::Logs(args) = parse("stower logs web -p --tail=-1").command else { panic!() };
    assert_eq!((args.previous, args.tail), (true, -1));
}

#[test]
fn flags_that_take_an_optional_value() {
    let dry = |line| match parse(line).command {
        Command::Apply(args) => args.dry_run,
        other => panic!("{other:?}"),
    };
    assert_eq!(dry("stower apply -f x"), DryRun::None);
    assert_eq!(dry("stower apply -f x --dry-run"), DryRun::Server);
    assert_eq!(dry("stower apply -f x --dry-run=server"), DryRun::Server);
    let wait = |line| match parse(line).command {
        Command::Delete(args) => args.wait.wait,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait("stower delete x"), None);
    assert_eq!(wait("stower delete x --wait=false"), Some(false));
    assert_eq!(wait("stower delete x --wait"), Some(true));
}

#[test]
fn what_contradicts_itself_is_refused() {
    refused("stower apply");
    refused("stower delete web --all");
    refused("stower delete web -f x");
    refused("stower stop web -l a=b");
    refused("stower logs web --since 1m --since-time 2026-01-01T00:00:00Z");
    refused("stower completion powershell");
}

#[test]
fn volumes_are_listed_and_waited_for() {
    let Command::Volume(args) = parse("stower volume inspect data datacontainer/set -o yaml").command else {
        panic!()
    };
    let VolumeCommand::Inspect(args) = args.command else { panic!("{args:?}") };
    assert_eq!((args.names.len(), args.output), (2, DataOutput::Yaml));
    let Command::Volume(args) = parse("stower volume prune -f").command else { panic!() };
    assert!(matches!(args.command, VolumeCommand::Prune(VolumePruneArgs { force: true })));
    assert!(refused("stower volume rm").contains("required"));
    let Command::Wait(args) = parse("stower wait --for=condition=Ready volume/x").command else { panic!() };
    assert_eq!((args.condition.as_str(), args.timeout.as_str()), ("condition=Ready", "30s"));
    assert_eq!(args.selection.targets, ["volume/x"]);
    assert!(refused("stower wait volume/x").contains("--for"));
}
