use super::*;

fn parse(given: &[(&str, &str)]) -> Result<Options, String> {
    let given: Vec<_> = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Options::parse(&given).map_err(|error| error.to_string())
}

#[test]
fn every_known_option_is_read() {
    let all = [
        ("dm.basesize", "20G"),
        ("dm.loopdatasize", "200GB"),
        ("dm.loopmetadatasize", "4g"),
        ("dm.fs", "xfs"),
        ("dm.mkfsarg", "-m crc=1 -q"),
        ("dm.mountopt", "noatime,nodiratime"),
        ("dm.blkdiscard", "false"),
        ("dm.thinpooldev", "vg-pool"),
        ("dm.blocksize", "512K"),
        ("dm.min_free_space", "15%"),
        ("dm.use_deferred_removal", "true"),
        ("dm.use_deferred_deletion", "false"),
        ("dm.directlvm_device_force", "true"),
        ("dm.thinp_percent", "90"),
        ("dm.thinp_metapercent", "2"),
        ("dm.thinp_autoextend_percent", "30"),
        ("dm.thinp_autoextend_threshold", "70"),
    ];
    let it = parse(&all).unwrap();
    let expected = Options {
        base_size: Some(20 << 30),
        loop_data_size: Some(200 << 30),
        loop_metadata_size: Some(4 << 30),
        fs: Some(Fs::Xfs),
        mkfs_args: vec!["-m".into(), "crc=1".into(), "-q".into()],
        mount_options: vec!["noatime".into(), "nodiratime".into()],
        discard: Some(false),
        thin_pool: Some("/dev/mapper/vg-pool".into()),
        block_size: Some(512 << 10),
        min_free: 15,
        deferred: false,
        direct: None,
        direct_force: true,
        data_percent: 90,
        metadata_percent: 2,
        extend_percent: 30,
        extend_threshold: 70,
    };
    assert_eq!(it, expected);
    let mut names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
    names.push("dm.directlvm_device");
    let mut known = KNOWN_OPTIONS.to_vec();
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known);
    assert_eq!(parse(&[]).unwrap(), Options::default());
}

#[test]
fn bad_values_say_what_is_taken() {
    for (given, why) in [
        (&[("dm.basesize", "much")][..], "such as 512M or 10G"),
        (&[("dm.basesize", "1M")], "it is from 33554432"),
        (&[("dm.loopmetadatasize", "1T")], "to 17112760320 bytes"),
        (&[("dm.fs", "btrfs")], "it is ext4 or xfs"),
        (&[("dm.fs", "xfs"), ("dm.basesize", "100M")], "not made smaller than 300M"),
        (&[("dm.blkdiscard", "maybe")], "it is true or false"),
        (&[("dm.thinpooldev", "a/b")], "absolute path"),
        (&[("dm.blocksize", "100K")], "a multiple of 64K"),
        (&[("dm.min_free_space", "100%")], "from 0 to 99"),
        (
            &[("dm.use_deferred_removal", "false"), ("dm.use_deferred_deletion", "true")],
            "needs dm.use_deferred_removal",
        ),
        (&[("dm.thinpooldev", "/dev/a"), ("dm.directlvm_device", "/dev/b")], "give one of them"),
        (&[("dm.thinp_percent", "90"), ("dm.thinp_metapercent", "20")], "more than 100"),
        (
            &[("dm.override_udev_sync_check", "true")],
            "is not known to the driver devicemapper, which has these: dm.basesize",
        ),
    ] {
        let error = parse(given).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}
