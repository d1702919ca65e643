package main

import "testing"

func TestTheCommandThatIsNamedIsMadeAlone(t *testing.T) {
	g := &globals{out: newOutput(t.Output()), stderr: t.Output()}
	for _, c := range commands {
		if name := c.make(g).Name(); name != c.name {
			t.Errorf("command %q is in the table as %q", name, c.name)
		}
		made := newRootCommand(g, []string{c.name, "--help"}).Commands()
		if c.name == manCommand {
			if len(made) != len(commands) {
				t.Errorf("%s knows of %d commands", c.name, len(made))
			}
		} else if made = append(made, newRootCommand(g, []string{"--store", "info", "--quiet", "--log-format=json", c.name, "x"}).Commands()...); len(made) != 2 ||
			made[1].Name() != c.name || made[0].Name() != c.name {
			t.Errorf("%s: %v", c.name, made)
		}
	}
	for _, args := range [][]string{nil, {""}, {"--store", "info"}, {"--store"}, {"--stor", "x", "info"}, {"-v", "info"}, {"-", "info"}, {"--", "info"}, {"--help"}, {"help", "info"}, {"completion", "bash"}, {"__complete", "in"}, {"inf"}} {
		if made := newRootCommand(g, args).Commands(); len(made) != len(commands) {
			t.Errorf("%q: %d commands", args, len(made))
		}
	}
}
