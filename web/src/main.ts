import "./tokens.css";
import "./ui.css";
import "uplot/dist/uPlot.min.css";
import { mount } from "svelte";
import App from "./App.svelte";
import { follow } from "./store/route";
import { beginTheme } from "./store/theme";

beginTheme();
follow();
mount(App, { target: document.getElementById("app")! });
