use serde_json::json;

use super::*;

fn report(digest: &str, phase: &str, current: u64, total: u64) -> Value {
    json!({"digest": digest, "phase": phase, "current": current, "total": total})
}

#[test]
fn a_pipe_gets_one_line_a_step() {
    let mut progress = Progress::new(false);
    let out: Vec<_> = [
        report("sha256:0123456789abcdef", "downloading", 0, 2_000_000),
        report("sha256:0123456789abcdef", "downloading", 1_000_000, 2_000_000),
        report("sha256:0123456789abcdef", "done", 2_000_000, 2_000_000),
        report("sha256:fedcba9876543210", "exists", 0, 0),
    ]
    .iter()
    .map(|report| progress.update(report))
    .collect();
    assert_eq!(
        out,
        [
            "0123456789ab: Downloading (2MB)\n",
            "",
            "0123456789ab: Pull complete (2MB)\n",
            "fedcba987654: Already here\n"
        ]
    );
}

#[test]
fn a_terminal_is_redrawn_in_place() {
    let mut progress = Progress::new(true);
    assert_eq!(
        progress.update(&report("sha256:aaaaaaaaaaaaaa", "downloading", 1_000_000, 4_000_000)),
        "\r\x1b[Kaaaaaaaaaaaa: Downloading  [=======>                      ]  25%  1MB/4MB\n"
    );
    assert_eq!(
        progress.update(&report("sha256:bbbbbbbbbbbbbb", "done", 1, 1)),
        "\x1b[1A\r\x1b[Kaaaaaaaaaaaa: Downloading  [=======>                      ]  25%  1MB/4MB\n\
         \r\x1b[Kbbbbbbbbbbbb: Pull complete\n"
    );
}

#[test]
fn a_full_bar_is_full_and_a_wrong_count_harmless() {
    for current in [10, 11, u64::MAX] {
        let text = Progress::new(true).update(&report("sha256:a", "downloading", current, 10));
        assert!(text.contains(&format!("[{}] 100%", "=".repeat(BAR))), "{text}");
    }
}
