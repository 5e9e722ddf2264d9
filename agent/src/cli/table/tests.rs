use super::*;

fn cells(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn columns_are_as_wide_as_their_content() {
    let mut table = Table::new(&["NAME", "AGE", "IMAGE"], true);
    table.row(cells(&["web", "5m", "nginx"]));
    table.row(cells(&["a-longer-name", "3d", ""]));
    assert_eq!(
        table.render_rows(),
        "NAME            AGE   IMAGE\nweb             5m    nginx\na-longer-name   3d\n"
    );
}

#[test]
fn later_rows_stay_aligned_and_have_no_headings() {
    let mut table = Table::new(&["NAME", "AGE"], true);
    assert_eq!(table.render_rows(), "");
    table.row(cells(&["longer", "5m"]));
    table.render_rows();
    table.row(cells(&["a", "1s"]));
    assert_eq!(table.render_rows(), "a        1s\n");
}

#[test]
fn without_headings_their_width_does_not_count() {
    let mut table = Table::new(&["NAMESPACE", "B"], false);
    table.row(cells(&["a", "b"]));
    assert_eq!(table.render_rows(), "a   b\n");
}

#[test]
fn nothing_steers_the_terminal() {
    let mut table = Table::new(&["A", "B"], false);
    table.row(cells(&["x\x1b[2Jy", "two\nlines"]));
    assert_eq!(table.render_rows(), "x\u{fffd}[2Jy   two lines\n");
}
