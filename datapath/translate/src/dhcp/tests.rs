//! Tests of DHCP: requests as clients send them, byte for byte, and malformed ones.

use super::*;
use crate::samples;

/// A client's message without options.
fn header() -> Vec<u8> {
    let mut message = vec![BOOT_REQUEST, ETHERNET, MAC_BYTES, 0, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0];
    message.extend([0; 16]);
    message.extend(samples::GUEST_MAC.0);
    message.extend([0; 10 + 64 + 128]);
    message.extend(MAGIC);
    message
}

fn frame(message: &[u8]) -> Vec<u8> {
    let link = Link { source: samples::GUEST_MAC, destination: culvert_frame::MacAddress::BROADCAST };
    let source = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
    reply::udp_v4(link, source, SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT), message).unwrap()
}

fn ask(settings: &Settings, message: &[u8]) -> Option<Vec<u8>> {
    answer(settings, &Guest::new(settings), &frame(message))
}

/// What was answered: the address assigned, and the options in order.
fn read(frame: &[u8]) -> (Ipv4Addr, Vec<(u8, Vec<u8>)>) {
    let (_, source, destination, message) = reply::read_udp_v4(frame).unwrap();
    assert_eq!((source.port(), destination.port()), (SERVER_PORT, CLIENT_PORT));
    assert!(message.len() >= MIN_MESSAGE_BYTES);
    let assigned: [u8; 4] = message[16..20].try_into().unwrap();
    let mut options = Vec::new();
    let mut rest = &message[240..];
    while rest[0] != 255 {
        let length = usize::from(rest[1]);
        options.push((rest[0], rest[2..2 + length].to_vec()));
        rest = &rest[2 + length..];
    }
    (assigned.into(), options)
}

#[test]
fn a_discover_is_offered_the_address() {
    let settings = samples::settings();
    let message = [&header()[..], &[53, 1, 1, 255]].concat();
    let (assigned, options) = read(&ask(&settings, &message).unwrap());
    assert_eq!(assigned, Ipv4Addr::new(192, 0, 2, 2));
    let expected: Vec<(u8, Vec<u8>)> = vec![
        (53, vec![2]),
        (54, vec![192, 0, 2, 1]),
        (51, vec![255, 255, 255, 255]),
        (1, vec![255, 255, 255, 0]),
        (3, vec![192, 0, 2, 1]),
        (6, vec![192, 0, 2, 53, 192, 0, 2, 54]),
        (12, b"guest".to_vec()),
        (26, vec![0xff, 0xf0]),
        (81, [&[12, 255, 255][..], b"\x05guest\x07example\x03org\0"].concat()),
        (119, b"\x01a\x07example\x03org\0\x01b\xc0\x02".to_vec()),
    ];
    assert_eq!(options, expected);
}

#[test]
fn clients_as_captured_get_exactly_these_answers() {
    let settings = samples::settings();
    let all = samples::captured(include_str!("captured.txt"));
    assert!(all.len() >= 15);
    for client in all {
        assert!(!client.frame.is_empty(), "{}", client.name);
        assert_eq!(answer(&settings, &Guest::new(&settings), &client.frame), client.answer, "{}", client.name);
    }
}

/// A discover with these options, and the end mark, behind its type.
fn discover(options: &[u8]) -> Vec<u8> {
    [&header()[..], &[53, 1, 1], options, &[255]].concat()
}

fn request(options: &[u8]) -> Vec<u8> {
    [&header()[..], &[53, 1, 3], options, &[255]].concat()
}

/// The option's data, joined where it is in pieces (RFC 3396).
fn option(options: &[(u8, Vec<u8>)], code: u8) -> Option<Vec<u8>> {
    let pieces: Vec<_> = options.iter().filter(|(found, _)| *found == code).map(|(_, data)| data.clone()).collect();
    (!pieces.is_empty()).then(|| pieces.concat())
}

#[test]
fn parameters_come_in_the_order_asked_for_then_the_rest() {
    let (_, options) = read(&ask(&samples::settings(), &discover(&[55, 5, 26, 6, 1, 6, 99])).unwrap());
    let codes: Vec<u8> = options.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [53, 54, 51, 26, 6, 1, 3, 12, 81, 119]);
}

#[test]
fn a_gateway_off_the_link_is_reached_by_a_route() {
    let mut settings = samples::settings();
    let v4 = settings.v4.as_mut().unwrap();
    v4.address = "10.1.2.3/32".parse().unwrap();
    v4.gateway = Ipv4Addr::new(169, 254, 1, 1);
    v4.ours = v4.gateway;
    let (assigned, options) = read(&ask(&settings, &discover(&[])).unwrap());
    assert_eq!(assigned, Ipv4Addr::new(10, 1, 2, 3));
    assert_eq!(option(&options, 1), Some(vec![255; 4]));
    assert_eq!(option(&options, 3), Some(vec![169, 254, 1, 1]));
    // RFC 3442: 169.254.1.1/32 on the link, everything by way of it.
    let routes = vec![32, 169, 254, 1, 1, 0, 0, 0, 0, 0, 169, 254, 1, 1];
    assert_eq!(option(&options, 121), Some(routes));
}

#[test]
fn what_is_not_configured_is_not_told() {
    let mut settings = samples::settings();
    (settings.mtu, settings.hostname, settings.fqdn) = (None, None, None);
    (settings.services.dhcp_dns, settings.services.dhcp_search) = (false, false);
    let (_, options) = read(&ask(&settings, &discover(&[55, 6, 1, 6, 12, 26, 81, 119])).unwrap());
    let codes: Vec<u8> = options.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [53, 54, 51, 1, 3]);
    settings.services.dhcp = false;
    assert_eq!(ask(&settings, &discover(&[])), None);
    settings = samples::settings();
    settings.v4 = None;
    assert_eq!(ask(&settings, &discover(&[])), None);
}

/// RFC 2131, section 4.3.2.
#[test]
fn requests_in_every_state_of_a_client() {
    let settings = samples::settings();
    let verdict = |message: &[u8]| {
        ask(&settings, message).map(|frame| {
            let (assigned, options) = read(&frame);
            (option(&options, 53).unwrap()[0], assigned.octets()[3])
        })
    };
    // SELECTING: this server, another, another address.
    assert_eq!(verdict(&request(&[54, 4, 192, 0, 2, 1, 50, 4, 192, 0, 2, 2])), Some((5, 2)));
    assert_eq!(verdict(&request(&[54, 4, 192, 0, 2, 9, 50, 4, 192, 0, 2, 2])), None);
    assert_eq!(verdict(&request(&[54, 4, 192, 0, 2, 1, 50, 4, 192, 0, 2, 3])), Some((6, 0)));
    // INIT-REBOOT: the address, and one that the pod had once.
    assert_eq!(verdict(&request(&[50, 4, 192, 0, 2, 2])), Some((5, 2)));
    assert_eq!(verdict(&request(&[50, 4, 10, 0, 0, 2])), Some((6, 0)));
    // RENEWING and REBINDING.
    let renewing = |address: [u8; 4]| {
        let mut message = request(&[]);
        message[12..16].copy_from_slice(&address);
        message
    };
    assert_eq!(verdict(&renewing([192, 0, 2, 2])), Some((5, 2)));
    assert_eq!(verdict(&renewing([10, 0, 0, 2])), Some((6, 0)));
    // Neither.
    assert_eq!(verdict(&request(&[])), None);
}

/// RFC 2131, section 4.1.
#[test]
fn answers_go_where_the_client_can_hear_them() {
    let settings = samples::settings();
    let destination = |message: &[u8]| {
        let frame = ask(&settings, message).unwrap();
        (*reply::read_udp_v4(&frame).unwrap().2.ip(), frame[..6].to_vec())
    };
    let (guest, everyone) = (samples::GUEST_MAC.0.to_vec(), vec![0xff; 6]);
    assert_eq!(destination(&discover(&[])), (Ipv4Addr::new(192, 0, 2, 2), guest.clone()));
    let mut message = discover(&[]);
    message[10] = 0x80;
    assert_eq!(destination(&message), (Ipv4Addr::BROADCAST, everyone.clone()));
    message[12..16].copy_from_slice(&[192, 0, 2, 7]);
    assert_eq!(destination(&message), (Ipv4Addr::new(192, 0, 2, 7), guest));
    for nobody in [[127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        message[12..16].copy_from_slice(&nobody);
        assert_eq!(destination(&message).0, Ipv4Addr::BROADCAST);
    }
    let refused = request(&[50, 4, 10, 0, 0, 2]);
    assert_eq!(destination(&refused), (Ipv4Addr::BROADCAST, everyone));
}

/// RFC 4702, section 2.1.
#[test]
fn a_clients_own_name_is_answered_in_its_form() {
    let fqdn = |asked: &[u8]| {
        let (_, options) = read(&ask(&samples::settings(), &discover(asked)).unwrap());
        option(&options, 81).unwrap()
    };
    // Text for text, and servers never update.
    assert_eq!(fqdn(&[81, 5, 1, 0, 0, b'm', b'e']), [&[0xa, 255, 255][..], b"guest.example.org"].concat());
    let wire = [&[255, 255][..], b"\x05guest\x07example\x03org\0"].concat();
    assert_eq!(fqdn(&[81, 3, 4, 0, 0]), [&[0xc][..], &wire].concat());
    assert_eq!(fqdn(&[81, 3, 0xf5, 0, 0]), [&[0xe][..], &wire].concat());
}

#[test]
fn answers_are_as_long_as_a_client_takes() {
    let mut settings = samples::settings();
    settings.search = (0..200).map(|n| format!("a-rather-long-label-{n}.example.org")).collect();
    let length = |options: &[u8]| {
        let frame = ask(&settings, &discover(options)).unwrap();
        let (_, options) = read(&frame);
        assert!(option(&options, 119).is_some());
        frame.len() - 14
    };
    // 548 bytes behind IP and UDP where nothing is said, or less than every client must take (RFC 2131, section 2).
    for small in [&[][..], &[57, 2, 0, 0], &[57, 2, 2, 64]] {
        assert!((500..=576).contains(&length(small)), "{small:?}");
    }
    assert!((950..=1000).contains(&length(&[57, 2, 3, 232])));
    for large in [[57, 2, 5, 220], [57, 2, 255, 255]] {
        assert!((1400..=1500).contains(&length(&large)), "{large:?}");
    }
    // The order of the client decides what is left out.
    settings.search.truncate(40);
    let (_, options) = read(&ask(&settings, &discover(&[55, 2, 119, 6])).unwrap());
    assert!(option(&options, 119).unwrap().len() > 255 - 40);
    assert_eq!(option(&options, 81), None);
}

#[test]
fn options_may_be_in_the_fields_of_names() {
    let settings = samples::settings();
    let mut message = [&header()[..], &[52, 1, 3, 255]].concat();
    message[44..49].copy_from_slice(&[50, 4, 10, 0, 0]);
    message[49..51].copy_from_slice(&[2, 255]);
    message[108..112].copy_from_slice(&[53, 1, 3, 255]);
    let (_, options) = read(&ask(&settings, &message).unwrap());
    assert_eq!(option(&options, 53), Some(vec![6]));
    // Where they are malformed, the whole message is.
    message[45] = 200;
    assert_eq!(ask(&settings, &message), None);
    // The second overload changes nothing: those fields were read, or never will be.
    message[45..51].copy_from_slice(&[4, 10, 0, 0, 2, 0]);
    message[51..55].copy_from_slice(&[52, 1, 3, 255]);
    assert!(ask(&settings, &message).is_some());
}

#[test]
fn an_end_mark_may_be_missing() {
    let settings = samples::settings();
    assert!(ask(&settings, &[&header()[..], &[53, 1, 1]].concat()).is_some());
    assert!(ask(&settings, &[&header()[..], &[0, 0, 53, 1, 1, 0, 0]].concat()).is_some());
}

#[test]
fn malformed_options_are_not_answered() {
    let settings = samples::settings();
    for options in [
        &[53][..],
        &[53, 2, 1],
        &[53, 1],
        &[53, 0],
        &[53, 2, 1, 1],
        &[12],
        &[12, 5, b'a'],
        &[12, 255],
        &[50, 3, 192, 0, 2],
        &[50, 5, 192, 0, 2, 2, 0],
        &[54, 0],
        &[57, 1, 5],
        &[57, 3, 0, 5, 220],
        &[52, 0],
        &[81, 0],
    ] {
        assert_eq!(ask(&settings, &[&header()[..], &[53, 1, 1], options].concat()), None, "{options:?}");
    }
}

#[test]
fn messages_that_are_not_a_clients_on_this_link_are_not_answered() {
    let settings = samples::settings();
    let changed = |offset: usize, value: u8| {
        let mut message = discover(&[]);
        message[offset] = value;
        ask(&settings, &message)
    };
    assert!(changed(3, 9).is_some(), "hops");
    // An answer's code, token ring, hardware addresses of other lengths, a relay, another magic number.
    let other =
        [(0, 0), (0, 2), (1, 6), (2, 0), (2, 5), (2, 7), (2, 16), (2, 17), (2, 255), (27, 1), (236, 0), (239, 0)];
    for (offset, value) in other {
        assert_eq!(changed(offset, value), None, "byte {offset} is {value}");
    }
    for message_type in [2, 4, 5, 6, 7, 9, 13, 18, 0, 255] {
        assert_eq!(ask(&settings, &[&header()[..], &[53, 1, message_type, 255]].concat()), None, "type {message_type}");
    }
}

#[test]
fn frames_that_are_not_ours_are_not_answered() {
    let settings = samples::settings();
    let whole = frame(&discover(&[]));
    let ask = |frame: &[u8]| answer(&settings, &Guest::new(&settings), frame);
    assert!(ask(&whole).is_some());
    let changed = |offset: usize, value: u8| {
        let mut frame = whole.clone();
        frame[offset] = value;
        ask(&frame)
    };
    // The source is a group; IPv6; no header fits in 4 words; more fragments; TCP; too long; another port.
    let other = [(6, 3), (12, 0x86), (14, 0x44), (20, 0x20), (23, 6), (16, 0xff), (38, 0xff), (37, 68)];
    for (offset, value) in other {
        assert_eq!(changed(offset, value), None, "byte {offset} is {value}");
    }
    let tagged = [&whole[..12], &[0x81, 0, 0, 5], &whole[12..]].concat();
    assert_eq!(ask(&tagged), None);
    for length in 0..whole.len() {
        assert_eq!(ask(&whole[..length]), None, "{length} bytes");
    }
}

#[test]
fn messages_cut_anywhere_are_answered_between_options_only() {
    let settings = samples::settings();
    for samples::Captured { name, frame, answer: answered } in samples::captured(include_str!("captured.txt")) {
        let message = reply::read_udp_v4(&frame).unwrap().3.to_vec();
        let mut between = 240;
        for length in 0..message.len() {
            let answer = ask(&settings, &message[..length]);
            match message[..] {
                _ if length < between => assert_eq!(answer, None, "{name}: {length} bytes"),
                // Anything may be missing here, and then even BOOTP is spoken.
                _ => {
                    between += match message[length] {
                        0 => 1,
                        255 => break,
                        _ => 2 + usize::from(message[length + 1]),
                    }
                }
            }
        }
        assert!(answered.is_none() || ask(&settings, &message).is_some());
    }
}

proptest::proptest! {
    #[test]
    fn any_options_get_an_answer_that_fits_or_none(
        options in proptest::collection::vec((0_u8.., proptest::collection::vec(0_u8.., 0..40)), 0..20),
        rubbish in proptest::collection::vec(0_u8.., 0..64),
        flags in 0_u8..,
    ) {
        let mut message = header();
        message[10] = flags;
        for (code, data) in options {
            message.push(code);
            message.push(u8::try_from(data.len()).unwrap());
            message.extend(data);
        }
        message.extend(rubbish);
        if let Some(frame) = ask(&samples::settings(), &message) {
            assert!(frame.len() <= 14 + 1500);
            read(&frame);
        }
    }
}
