// Command judge says what GitOps tools make of Kubernetes objects, by the very code that they use.
//
//	judge LUA FLUX < objects.json
//
// LUA is a folder with one Argo CD health script per kind (worker.lua, realm.lua); FLUX a file with the healthCheckExprs of a
// Flux Kustomization, as JSON. Standard input is a JSON list of objects; standard output a JSON list, in the same order, of
// {"kstatus": {status, message}, "argocd": {status, message}, "flux": {status, message}}.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubejson "k8s.io/apimachinery/pkg/util/json"
	luajson "layeh.com/gopher-json"
)

// Verdict is what one tool says of an object.
type Verdict struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	if len(os.Args) != 3 {
		fail("usage: judge LUA FLUX < objects.json")
	}
	input, err := io.ReadAll(os.Stdin)
	must(err)
	var objects []map[string]any
	must(kubejson.Unmarshal(input, &objects)) // whole numbers stay whole, as in Kubernetes' clients
	var checks []kustomize.CustomHealthCheck
	text, err := os.ReadFile(os.Args[2])
	must(err)
	must(json.Unmarshal(text, &checks))
	answers := []map[string]Verdict{}
	for _, object := range objects {
		wanted := &unstructured.Unstructured{Object: object}
		answers = append(answers, map[string]Verdict{
			"kstatus": kstatus(wanted), "argocd": argocd(wanted, os.Args[1]), "flux": flux(wanted, checks),
		})
	}
	must(json.NewEncoder(os.Stdout).Encode(answers))
}

func kstatus(object *unstructured.Unstructured) Verdict {
	result, err := status.Compute(object)
	must(err)
	return Verdict{result.Status.String(), result.Message}
}

// argocd runs a health script as Argo CD does: `obj` is the object, the answer a table with status and message. Of the
// standard libraries only those without access to the machine are there.
func argocd(object *unstructured.Unstructured, folder string) Verdict {
	script, err := os.ReadFile(filepath.Join(folder, strings.ToLower(object.GetKind())+".lua"))
	must(err)
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage}, {lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable},
	} {
		must(state.CallByParam(lua.P{Fn: state.NewFunction(library.open), NRet: 0, Protect: true}, lua.LString(library.name)))
	}
	deadline, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(deadline)
	text, err := json.Marshal(object.Object)
	must(err)
	decoded, err := luajson.Decode(state, text)
	must(err)
	state.SetGlobal("obj", decoded)
	must(state.DoString(string(script)))
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		fail("%s: the script has to return a table", object.GetKind())
	}
	return Verdict{lua.LVAsString(table.RawGetString("status")), lua.LVAsString(table.RawGetString("message"))}
}

func flux(object *unstructured.Unstructured, checks []kustomize.CustomHealthCheck) Verdict {
	for _, check := range checks {
		if check.APIVersion != object.GetAPIVersion() || check.Kind != object.GetKind() {
			continue
		}
		evaluator, err := cel.NewStatusEvaluator(&check.HealthCheckExpressions)
		must(err)
		result, err := evaluator.Evaluate(context.Background(), object)
		must(err)
		return Verdict{result.Status.String(), result.Message}
	}
	return kstatus(object)
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "judge: "+format+"\n", arguments...)
	os.Exit(1)
}
