use super::*;
use crate::dm::status::{Blocks, Pool};

const MIB: u64 = 1 << 20;

fn working(text: &str) -> Working {
    match text.parse() {
        Ok(Pool::Works(working)) => working,
        other => panic!("{other:?}"),
    }
}

fn pressure(text: &str, floor: u8) -> Option<Pressure> {
    let it = working(text);
    let fill = |blocks: Blocks| Fill { used: blocks.used * MIB, total: blocks.total * MIB };
    of("p", &it, fill(it.data), fill(it.metadata), floor)
}

#[test]
fn low_is_below_the_floor() {
    assert_eq!(pressure("1 9/100 90/100 - rw discard_passdown queue_if_no_space - 1", 10), None);
    let fill = Fill { used: 91 * MIB, total: 100 * MIB };
    let low = pressure("1 9/100 91/100 - rw discard_passdown queue_if_no_space - 1", 10);
    assert_eq!(low, Some(Pressure::DataLow { pool: "p".into(), fill, floor: 10 }));
    let low = pressure("1 91/100 9/100 - rw discard_passdown queue_if_no_space - 1", 10);
    assert_eq!(low, Some(Pressure::MetadataLow { pool: "p".into(), fill, floor: 10 }));
    assert_eq!(pressure("1 100/100 100/100 - rw discard_passdown queue_if_no_space - 1", 0), None);
}

#[test]
fn what_the_kernel_refuses_is_told_with_what_to_do() {
    let why = |text| match pressure(text, 10) {
        Some(Pressure::ReadOnly { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    assert!(
        why("1 9/100 100/100 - out_of_data_space discard_passdown queue_if_no_space - 1")
            .contains("remove images")
    );
    assert!(
        why("1 9/100 9/100 - ro discard_passdown queue_if_no_space needs_check 1").contains("thin_check")
    );
    assert!(why("1 9/100 9/100 - ro discard_passdown queue_if_no_space - 1").contains("see its log"));
    assert!(matches!(failed("p"), Pressure::Failed { .. }));
}
