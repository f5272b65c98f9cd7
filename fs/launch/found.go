package launch

import "strings"

// ScriptVariables tells what an image's environment scripts, given as text in
// their order, set by plain assignments, PATH among it. Nothing is run; lines
// that are more than assignments count as not there.
func ScriptVariables(scripts []string) map[string]string {
	vars := shellVars{values: map[string]string{"PATH": defaultPath}, outside: func(string) bool { return false }}
	for _, text := range scripts {
		for line := range strings.Lines(text) {
			vars.script(line)
		}
	}
	return vars.values
}
