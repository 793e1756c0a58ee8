import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { start } from "./state";
import { App } from "./view/App";
import "./styles/index.css";

void start();
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
