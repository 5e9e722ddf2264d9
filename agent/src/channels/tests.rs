use super::*;

async fn read_all(bytes: &[u8], piece: usize) -> io::Result<Vec<Frame>> {
    let (mut to, from) = tokio::io::duplex(piece);
    let bytes = bytes.to_vec();
    tokio::spawn(async move {
        let _ = to.write_all(&bytes).await;
    });
    let mut reader = Reader::new(from, &[]);
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().await? {
        frames.push(frame);
    }
    Ok(frames)
}

#[tokio::test]
async fn frames_survive_any_cut() {
    let mut bytes = Vec::new();
    write(&mut bytes, STDIN, b"abc").await.unwrap();
    write(&mut bytes, CLOSE, &[STDIN]).await.unwrap();
    write(&mut bytes, STDOUT, &[7; MAX]).await.unwrap();
    for piece in [1, 2, 7, 100_000] {
        let frames = read_all(&bytes, piece).await.unwrap();
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0], Frame { channel: STDIN, payload: b"abc".to_vec() });
        assert_eq!(frames[1], Frame { channel: CLOSE, payload: vec![STDIN] });
        assert_eq!(frames[2].payload.len(), MAX);
    }
}

#[tokio::test]
async fn a_torn_or_endless_frame_is_an_error() {
    assert_eq!(read_all(&[0, 0, 0, 0, 3, 1], 9).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(read_all(&[0, 0xff, 0, 0, 0], 9).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn ends_and_sizes_go_there_and_back() {
    assert_eq!(exit_code(&status(0)), Ok(0));
    assert_eq!(exit_code(&status(137)), Ok(137));
    assert_eq!(exit_code(&failure("gone")), Err("gone".to_owned()));
    assert_eq!(size(&resize(24, 80)), Some((24, 80)));
    assert_eq!(size(b"{\"Width\": 70000, \"Height\": 1}"), None);
}
