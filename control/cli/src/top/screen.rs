//! The screen: what is drawn, and what keys do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use culvert_api::latency;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::figures::{Figures, Port, Worker, short};

/// What somebody has chosen.
#[derive(Debug, Default)]
pub struct Screen {
    sort: usize,
    reversed: bool,
    filter: String,
    /// Whether keys go into the filter.
    typing: bool,
    paused: bool,
    /// The first port that is shown.
    first: usize,
}

/// The columns of ports: the heading, the width, and what they are sorted by; texts from the first letter, numbers from the largest.
const COLUMNS: [(&str, u16, Order); 9] = [
    ("PORT", 15, Order::Text(|port| &port.name)),
    ("NETWORK", 10, Order::Text(|port| &port.network)),
    ("STATE", 12, Order::Text(|port| port.state)),
    ("RX FRAMES", 10, Order::Number(|port| port.rx_frames)),
    ("RX BITS", 8, Order::Number(|port| port.rx_bits)),
    ("TX FRAMES", 10, Order::Number(|port| port.tx_frames)),
    ("TX BITS", 8, Order::Number(|port| port.tx_bits)),
    // Where there is room.
    ("DROPS", 7, Order::Number(|port| port.drops)),
    // While somebody measures; in 80 columns in the network's place.
    ("P99", 9, Order::Time(|port| port.p99)),
];

#[derive(Clone, Copy)]
enum Order {
    Text(fn(&Port) -> &str),
    Number(fn(&Port) -> f64),
    Time(fn(&Port) -> Option<u64>),
}

impl Screen {
    /// Whether the figures are to stay as they are.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Obeys a key; whether somebody wants to leave.
    pub fn key(&mut self, key: KeyEvent, figures: &Figures) -> bool {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return true;
        }
        if self.typing {
            match key.code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => (self.typing, self.filter) = (false, String::new()),
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(letter) if self.filter.len() < MAX_FILTER => self.filter.push(letter),
                _ => {}
            }
            self.first = 0;
            return false;
        }
        let last = figures.ports.len().saturating_sub(1);
        let columns = COLUMNS.len() - usize::from(!figures.is_measured);
        match key.code {
            KeyCode::Char('q') => return true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('s') | KeyCode::Right => self.sort = self.sort.saturating_add(1) % columns,
            KeyCode::Left => self.sort = self.sort.checked_sub(1).unwrap_or(columns - 1),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p') | KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Down => self.first = self.first.saturating_add(1).min(last),
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            KeyCode::PageDown => self.first = self.first.saturating_add(PAGE).min(last),
            KeyCode::PageUp => self.first = self.first.saturating_sub(PAGE),
            KeyCode::Home => self.first = 0,
            _ => {}
        }
        false
    }

    /// Draws all.
    pub fn draw(&self, frame: &mut Frame<'_>, figures: &Figures) {
        let workers = u16::try_from(figures.workers.len()).unwrap_or(u16::MAX).min(frame.area().height / 3);
        let parts = [Constraint::Length(1), Constraint::Length(workers), Constraint::Min(2), Constraint::Length(1)];
        let [head, of_workers, of_ports, foot] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(figures)).style(BOLD), head);
        let lines: Vec<_> = figures.workers.iter().map(worker).collect();
        frame.render_widget(Paragraph::new(lines), of_workers);
        frame.render_widget(self.ports(figures, of_ports.width), of_ports);
        frame.render_widget(Paragraph::new(self.foot()).style(Style::new().add_modifier(Modifier::DIM)), foot);
    }

    fn head(&self, figures: &Figures) -> String {
        let sum = |value: fn(&Port) -> f64| short(figures.ports.iter().map(value).sum());
        let up = figures.ports.iter().filter(|port| port.state == "up").count();
        let paused = if self.paused { "  (paused)" } else { "" };
        format!(
            "{} ports, {up} up   in {} frames/s, {}bit/s   dropped {}/s{paused}",
            figures.ports.len(),
            sum(|port| port.rx_frames),
            spaced(&sum(|port| port.rx_bits)),
            sum(|port| port.drops)
        )
    }

    fn foot(&self) -> String {
        if self.typing {
            return format!("filter: {}_   (Enter: keep, Esc: none)", self.filter);
        }
        let filter = if self.filter.is_empty() { "/ filter".to_owned() } else { format!("filter: {}", self.filter) };
        format!("q quit  s sort  r reverse  {filter}  p pause  arrows scroll")
    }

    fn ports<'a>(&self, figures: &'a Figures, width: u16) -> Table<'a> {
        let mut columns: Vec<_> = COLUMNS.into_iter().enumerate().collect();
        let width_of =
            |columns: &[(usize, (&str, u16, Order))]| columns.iter().map(|(_, (_, width, _))| width).sum::<u16>();
        if !figures.is_measured {
            columns.retain(|(_, (heading, ..))| *heading != "P99");
        }
        for least in ["NETWORK", "DROPS"] {
            if width_of(&columns) > width && (least != "NETWORK" || figures.is_measured) {
                columns.retain(|(_, (heading, ..))| *heading != least);
            }
        }
        let wanted = |port: &&Port| {
            [&port.name, &port.network].iter().any(|text| text.contains(&self.filter))
                || port.state.contains(&self.filter)
        };
        let mut ports: Vec<&Port> = figures.ports.iter().filter(wanted).collect();
        let Some((_, _, order)) = COLUMNS.get(self.sort) else { return Table::default() };
        ports.sort_by(|one, other| match order {
            Order::Text(text) => text(one).cmp(text(other)),
            Order::Number(number) => number(other).total_cmp(&number(one)),
            Order::Time(time) => time(other).cmp(&time(one)),
        });
        if self.reversed {
            ports.reverse();
        }
        let headings = columns.iter().map(|(number, (heading, width, order))| {
            let style = if *number == self.sort { BOLD.add_modifier(Modifier::REVERSED) } else { BOLD };
            Cell::from(aligned((*heading).to_owned(), *width, *order)).style(style)
        });
        let rows = ports.into_iter().skip(self.first).map(|port| {
            let cells = columns.iter().map(|(_, (heading, width, order))| match order {
                Order::Text(text) => {
                    let style = if *heading == "STATE" { of_state(port.state) } else { Style::new() };
                    Cell::from(cut(text(port), usize::from(*width).saturating_sub(1))).style(style)
                }
                Order::Number(number) => {
                    let style = if *heading == "DROPS" && port.drops >= 0.5 {
                        Style::new().fg(Color::Red)
                    } else {
                        Style::new()
                    };
                    Cell::from(aligned(short(number(port)), *width, *order)).style(style)
                }
                Order::Time(time) => {
                    Cell::from(aligned(time(port).map_or_else(|| "-".to_owned(), latency::text), *width, *order))
                }
            });
            Row::new(cells.collect::<Vec<_>>())
        });
        let widths: Vec<_> = columns.iter().map(|(_, (_, width, _))| Constraint::Length(*width)).collect();
        Table::new(rows.collect::<Vec<_>>(), widths).header(Row::new(headings.collect::<Vec<_>>())).column_spacing(0)
    }
}

/// `core 1  [######              ]  31.0 %  1.23 M frames/s  41.0 ns each`
fn worker(worker: &Worker) -> Line<'static> {
    let Worker { core, load, frames, ns_per_frame } = worker;
    let filled = (0..20).filter(|part| f64::from(*part) + 0.5 <= load * 20.0).count();
    let each = ns_per_frame.map_or(String::new(), |ns| format!("  {ns:.1} ns each"));
    let colour = if *load > 0.9 { Color::Red } else { Color::Reset };
    let text = format!(
        "core {core:<4}[{:<20}] {:>5.1} %  {} frames/s{each}",
        "#".repeat(filled),
        (load * 100.0).min(100.0),
        short(*frames)
    );
    Line::styled(text, Style::new().fg(colour))
}

/// Numbers stand to the right.
fn aligned(text: String, width: u16, order: Order) -> String {
    match order {
        Order::Text(_) => text,
        Order::Number(_) | Order::Time(_) => format!("{text:>width$} ", width = usize::from(width).saturating_sub(1)),
    }
}

/// At most so many letters; what is missing is told by `~`.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['~']).collect()
}

/// `1.23 M` and a unit behind it need no further space, `123` does.
fn spaced(rate: &str) -> String {
    if rate.contains(' ') { rate.to_owned() } else { format!("{rate} ") }
}

fn of_state(state: &str) -> Style {
    match state {
        "up" => Style::new().fg(Color::Green),
        "failed" | "quarantined" => Style::new().fg(Color::Red),
        _ => Style::new().fg(Color::Yellow),
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const PAGE: usize = 10;
const MAX_FILTER: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn figures() -> Figures {
        let port = |name: &str, network: &str, state, rate: f64| Port {
            name: name.to_owned(),
            network: network.to_owned(),
            state,
            rx_frames: rate,
            rx_bits: rate * 512.0,
            tx_frames: rate / 2.0,
            tx_bits: rate * 256.0,
            drops: rate / 1e4,
            p99: None,
        };
        let workers = vec![
            Worker { core: 1, load: 0.314, frames: 1.5e6, ns_per_frame: Some(41.04) },
            Worker { core: 12, load: 0.0, frames: 0.0, ns_per_frame: None },
        ];
        let ports = vec![
            port("uplink0", "blue", "up", 14.2e6),
            port("vm-a", "blue", "quarantined", 1234.0),
            port("a-very-long-name-of-a-port", "a-long-network", "waiting", 0.0),
        ];
        Figures { ports, workers, is_measured: false }
    }

    fn drawn(screen: &Screen, width: u16) -> String {
        drawn_of(&figures(), screen, width)
    }

    fn drawn_of(figures: &Figures, screen: &Screen, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 8)).unwrap();
        terminal.draw(|frame| screen.draw(frame, figures)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(usize::from(width)).map(|line| {
            let line: String = line.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned() + "\n"
        });
        lines.collect()
    }

    fn press(screen: &mut Screen, keys: &[KeyCode]) -> bool {
        keys.iter().any(|key| screen.key(KeyEvent::from(*key), &figures()))
    }

    #[test]
    fn everything_fits_in_80_columns() {
        let expected = "\
3 ports, 1 up   in 14.2 M frames/s, 7.27 Gbit/s   dropped 1.42 k/s
core 1   [######              ]  31.4 %  1.50 M frames/s  41.0 ns each
core 12  [                    ]   0.0 %  0 frames/s
PORT           NETWORK   STATE       RX FRAMES RX BITS TX FRAMES TX BITS  DROPS
a-very-long-n~ a-long-n~ waiting             0       0         0       0      0
uplink0        blue      up             14.2 M  7.27 G    7.10 M  3.64 G 1.42 k
vm-a           blue      quarantined    1.23 k   632 k       617   316 k      0
q quit  s sort  r reverse  / filter  p pause  arrows scroll
";
        assert_eq!(drawn(&Screen::default(), 80), expected);
        // A narrow one leaves drops out, and nothing is between two lines.
        assert!(!drawn(&Screen::default(), 74).contains("DROPS"));
    }

    #[test]
    fn latency_has_a_column_while_it_is_measured() {
        let mut figures = Figures { is_measured: true, ..figures() };
        figures.ports[1].p99 = Some(12_345);
        let mut screen = Screen::default();
        let text = drawn_of(&figures, &screen, 80);
        let lines: Vec<_> = text.lines().skip(3).take(4).collect();
        assert_eq!(
            lines,
            [
                "PORT           STATE       RX FRAMES RX BITS TX FRAMES TX BITS  DROPS      P99",
                "a-very-long-n~ waiting             0       0         0       0      0        -",
                "uplink0        up             14.2 M  7.27 G    7.10 M  3.64 G 1.42 k        -",
                "vm-a           quarantined    1.23 k   632 k       617   316 k      0  12.3 us"
            ]
        );
        assert!(drawn_of(&figures, &screen, 89).contains("NETWORK"));
        screen.key(KeyEvent::from(KeyCode::Left), &figures);
        assert!(drawn_of(&figures, &screen, 80).lines().nth(4).unwrap().starts_with("vm-a"));
    }

    fn order(screen: &Screen) -> Vec<String> {
        let text = drawn(screen, 80);
        text.lines().skip(4).take(3).filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
    }

    #[test]
    fn keys_sort_filter_and_scroll() {
        let mut screen = Screen::default();
        let name = "a-very-long-n~";
        assert_eq!(order(&screen), [name, "uplink0", "vm-a"]);
        assert!(!press(&mut screen, &[KeyCode::Char('s'); 3]));
        assert_eq!(order(&screen), ["uplink0", "vm-a", name]);
        press(&mut screen, &[KeyCode::Char('r')]);
        assert_eq!(order(&screen), [name, "vm-a", "uplink0"]);
        press(&mut screen, &[KeyCode::Down]);
        assert_eq!(order(&screen)[..2], ["vm-a", "uplink0"]);
        let typed = ['/', 'm', '-', 'q'].map(KeyCode::Char).into_iter().chain([KeyCode::Backspace, KeyCode::Enter]);
        assert!(!press(&mut screen, &typed.collect::<Vec<_>>()));
        assert_eq!(order(&screen)[0], "vm-a");
        assert!(drawn(&screen, 80).contains("filter: m-  p pause"));
        press(&mut screen, &[KeyCode::Esc, KeyCode::Char('p')]);
        assert!(screen.is_paused() && drawn(&screen, 80).contains("(paused)"));
        // By the last column, and around.
        press(&mut screen, &[KeyCode::Left; 4]);
        assert_eq!(screen.sort, COLUMNS.len() - 2);
        assert!(press(&mut screen, &[KeyCode::Char('q')]));
        assert!(screen.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &figures()));
    }

    #[test]
    fn a_tiny_terminal_is_no_fault() {
        for (width, height) in [(1, 1), (5, 2), (20, 3), (200, 60)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| Screen::default().draw(frame, &figures())).unwrap();
        }
    }
}
