//! Reading and writing: documents, places, limits, hostile input.

use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn values(text: &str) -> Vec<Value> {
    let documents =
        read_documents(text.as_bytes(), &Limits::default()).unwrap_or_else(|error| panic!("{error}"));
    documents.into_iter().map(|document| document.value).collect()
}

fn refusal(text: &str) -> String {
    read_documents(text.as_bytes(), &Limits::default()).expect_err("refused").to_string()
}

#[test]
fn several_documents_and_json() {
    assert_eq!(values(""), Vec::<Value>::new());
    assert_eq!(values("# only a comment\n---\n---\n"), Vec::<Value>::new());
    assert_eq!(values("---\na: 1\n---\n# empty\n---\nb: 2\n"), [json!({ "a": 1 }), json!({ "b": 2 })]);
    assert_eq!(values("{\"a\":\t[1,\n\"x\"]}\n"), [json!({ "a": [1, "x"] })]);
    assert_eq!(values("\u{feff}a: 1"), [json!({ "a": 1 })]);
    assert_eq!(
        values("a: 0644\nb: yes\nc: 'yes'\nd: ~\n"),
        [json!({ "a": 420, "b": true, "c": "yes", "d": null })]
    );
    assert_eq!(values("a: &x {b: 1}\nc: *x\n"), [json!({ "a": { "b": 1 }, "c": { "b": 1 } })]);
}

#[test]
fn lists_are_taken_apart() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {kind: A}\n-\n- kind: B\n";
    let documents = read_documents(text.as_bytes(), &Limits::default()).unwrap();
    let seen: Vec<_> =
        documents.iter().map(|document| (document.value.to_string(), document.first_line)).collect();
    assert_eq!(seen, [("{\"kind\":\"A\"}".to_owned(), 4), ("{\"kind\":\"B\"}".to_owned(), 6)]);
    assert_eq!(
        refusal("apiVersion: v1\nkind: List\nitems: 5\n"),
        "1:1: items: a List must have a list of items"
    );
}

#[test]
fn syntax_errors_have_their_place() {
    assert_eq!(refusal("a: 1\nb: ["), "2:4: unclosed bracket '['");
    assert_eq!(refusal("a: 1\na: 2\n"), "2:1: key \"a\" is there twice");
    assert_eq!(refusal("a:\n  b: 1\n---\na: !thing x\n"), "4:11: unsupported tag `!thing`");
    assert_eq!(refusal("a: *b\n"), "1:4: alias references unknown anchor");
    let bad = read_documents(b"a: 1\nb: \xff\n", &Limits::default()).unwrap_err();
    assert_eq!(bad.to_string(), "2:4: file is not UTF-8");
}

#[test]
fn fields_have_their_place() {
    let text = "# first\nmetadata:\n  labels:\n    a.b/c: x\nspec:\n  env:\n  - name: A\n    value: 5\n  - {name: B, value: 6}\n";
    let document = read_documents(text.as_bytes(), &Limits::default()).unwrap().remove(0);
    assert_eq!(document.first_line, 2);
    let at = |path: &str| document.locate(path).to_string();
    assert_eq!(at("spec.env[0].value"), "8:5");
    assert_eq!(at("spec.env[1].value"), "9:15");
    assert_eq!(at("metadata.labels.a.b/c"), "4:5");
    // What is missing is shown where it would be.
    assert_eq!(at("spec.image"), "5:1");
    assert_eq!(at("spec.env[7].name"), "6:3");
    assert_eq!(at(""), "2:1");
}

#[test]
fn limits_hold() {
    let few = Limits { max_bytes: 100, max_documents: 2, max_depth: 3, max_nodes: 12, max_alias_nodes: 4 };
    let ask = |text: &str| read_documents(text.as_bytes(), &few).map(|documents| documents.len());
    assert_eq!(ask("a: {b: [1]}\n"), Ok(1));
    assert_eq!(
        ask(&"#".repeat(101)).unwrap_err().to_string(),
        "1:1: file has 101 bytes, at most 100 are read"
    );
    assert_eq!(ask("a: {b: [[1]]}\n").unwrap_err().to_string(), "1:9: nested deeper than 3 levels");
    assert_eq!(ask("[1,1,1,1,1,1,1,1,1,1,1,1,1]\n").unwrap_err().message, "more than 12 values");
    assert!(ask("a: 1\n---\na: 1\n---\na: 1\n").is_err());
    assert!(ask("{apiVersion: v1, kind: List, items: [1, 2, 3]}").is_err());
    assert_eq!(
        ask("a: &a [1, 2]\nb: [*a, *a, *a]\n").unwrap_err().message,
        "aliases stand for more than 4 values"
    );
}

/// The limits refuse these long before they cost anything; the time is printed for people.
#[test]
fn hostile_files_are_refused() {
    let bomb: String = std::iter::once("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned())
        .chain((1..30).map(|n| {
            let alias = format!("*a{}", n - 1);
            format!("a{n}: &a{n} [{}]\n", [alias.as_str(); 9].join(", "))
        }))
        .collect();
    let block: String = (0..10_000).map(|depth| format!("{}a:\n", " ".repeat(depth % 900))).collect();
    let nested: String = (0..1_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let dashes = "- ".repeat(10_000);
    let cases = [
        ("brackets, 10,000 deep", "[".repeat(10_000)),
        ("braces, 10,000 deep", "{a: ".repeat(10_000)),
        ("dashes, 10,000 deep", dashes),
        ("block maps, 1,000 deep", nested),
        ("ragged block maps", block),
        ("alias bomb", bomb),
        ("many nodes", format!("[{}]", "a,".repeat(500_000))),
        ("a key without end", "a".repeat(1 << 20)),
        ("question marks", "? ".repeat(100_000)),
        ("anchors", "- &a a\n".repeat(100_000)),
        ("size", " ".repeat((8 << 20) + 1)),
    ];
    for (name, text) in cases {
        let begin = Instant::now();
        let verdict = read_documents(text.as_bytes(), &Limits::default());
        println!("{name}: {:?} {:?}", begin.elapsed(), verdict.as_ref().map(Vec::len));
        if name != "a key without end" {
            assert!(verdict.is_err(), "{name}");
        }
    }
}

fn document() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ -~]{0,20}",
        "[a-z\n:#'\" \t|>-]{0,20}",
        "\\PC{0,8}",
        prop::sample::select(vec![
            "",
            "yes",
            "no",
            "null",
            "~",
            "true",
            "on",
            "y",
            "0644",
            "1e3",
            ".5",
            "0x1f",
            "1_000",
            "12:30:45",
            "=",
            "<<",
            "- a",
            "a: b",
            "#",
            "\n",
            "a\n",
            "\na",
            " a",
            "a ",
            "\u{85}",
            "2001-01-01",
            "0b1",
            "-.inf",
            "!x",
            "&x",
            "*x",
            "%",
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(text.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(value in document()) {
        let value = json!({ "root": value });
        let text = to_yaml(&value);
        let documents = read_documents(text.as_bytes(), &Limits::default()).map_err(|error| {
            TestCaseError::fail(format!("{error}\n{text}"))
        })?;
        prop_assert_eq!(&documents[0].value, &value, "{}", text);
    }
}
