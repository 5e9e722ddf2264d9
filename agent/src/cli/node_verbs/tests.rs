use clap::Parser;

use super::*;
use crate::args::Cli;

fn verb(line: &str) -> Option<(&'static str, Vec<String>)> {
    let command = Cli::try_parse_from(line.split_whitespace()).unwrap().command;
    of_node(&command).map(|(verb, names)| (verb, names.into_iter().map(str::to_owned).collect()))
}

#[test]
fn what_a_cluster_has_is_not_refused() {
    for line in [
        "stower get",
        "stower describe web",
        "stower apply -f x",
        "stower delete web",
        "stower wait --for=delete web",
        "stower events",
        "stower validate -f x",
        "stower version",
        "stower node forget n1",
    ] {
        assert_eq!(verb(line), None, "{line}");
    }
}

#[test]
fn verbs_of_a_node_are_told_with_what_they_name() {
    for (line, word, names) in [
        ("stower logs -f web", "logs", &["web"][..]),
        ("stower exec web -- sh", "exec", &["web"]),
        ("stower cp web:/etc/passwd ./x:y", "cp", &["web"]),
        ("stower stop web container/db", "stop", &["web", "container/db"]),
        ("stower image ls", "image ls", &[]),
        ("stower images", "images", &[]),
        ("stower plan", "plan", &[]),
        ("stower describe node", "describe node", &[]),
    ] {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(verb(line), Some((word, names)), "{line}");
    }
}

#[test]
fn the_refusal_says_where_to_ask() {
    assert_eq!(
        told("logs", &["container.stower.dev/web is on node n1".to_owned()]),
        "logs is a command to the agent of a node, not to a cluster: container.stower.dev/web is on node n1; run it there as \
         `stower logs`, where the agent's socket is /run/stower/stower.sock, or what --socket or STOWER_SOCKET names"
    );
    assert!(told("images", &[]).contains("not to a cluster: run it on the node as `stower images`"));
}
